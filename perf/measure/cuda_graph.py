"""A CUDA graph launches a call's kernels in their order at once, without the host."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from perf.system.tools import first_line


class Uncapturable(ValueError):
    """Says why a call can't be captured, in one line."""


def capture(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a callable that replays the kernels of one `fn()`; `fn` has run before.

    It is captured on the current stream: gradients flow on the stream of their forward pass, so that
    stream can't be the default one, which refuses to be captured. Raises Uncapturable, e.g. for a call
    that waits for the GPU, or for one on the default stream.
    """
    stream = torch.cuda.current_stream()
    if stream == torch.cuda.default_stream():
        raise Uncapturable("the current stream is the default one, which CUDA does not capture; torch.cuda.set_stream "
                           "another one first")
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads (autograd's, a sampler's) may make calls that a capture in "global" mode forbids.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                result = fn()
            finally:  # a capture has to end on the stream that it began on, or that stream takes nothing any more
                other = torch.cuda.current_stream() != stream
                torch.cuda.set_stream(stream)
    except RuntimeError as error:
        first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
        torch.cuda.synchronize()
        raise Uncapturable(f"CUDA captures no graph of it: {first_line(first)}") from error
    if other:
        raise Uncapturable("CUDA captures no graph of it: it left another stream as the current one")
    return Replay(graph, result)


class Replay:
    """Launches a graph; holds what the captured call returned, whose memory every replay writes anew."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: Any) -> None:
        self.graph, self.result = graph, result

    def __call__(self) -> Any:
        self.graph.replay()
        return self.result
