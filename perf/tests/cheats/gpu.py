"""Cheats that only a GPU can play: by graphs and streams."""
from __future__ import annotations

from typing import Any

import torch

from perf.tests.cheats.catalogue import GPU_CHEATS, OTHER_RESULT, SWITCHED, WRONG, Attend, cheat, honest, later
from perf.tests.cheats.switches import switching


def captured() -> bool:
    return torch.cuda.is_current_stream_capturing()


@cheat(OTHER_RESULT, GPU_CHEATS)
def nothing_while_captured() -> Attend:
    kept: list[torch.Tensor] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if captured() and kept:
            return kept[0]
        out = honest(q, k, v, **told)
        kept[:] = [out]
        return out

    return attend


@cheat(WRONG, GPU_CHEATS)
def right_only_when_captured() -> Attend:
    return lambda q, k, v, **told: honest(q, k, v, **told) if captured() else torch.zeros_like(q)


@cheat(OTHER_RESULT, GPU_CHEATS)
def half_of_the_heads_while_captured() -> Attend:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if not captured():
            return honest(q, k, v, **told)
        out, half = torch.empty_like(q), q.shape[1] // 2
        out[:, :half] = honest(q[:, :half], k[:, :half], v[:, :half], **told)
        return out

    return attend


def on_another_stream(wait_before: bool, wait_after: bool) -> Attend:
    """Is honest until it is timed; then it leaves out one of the waits."""
    streams: list[torch.cuda.Stream] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if not streams:
            streams.append(torch.cuda.Stream())
        mine = torch.cuda.current_stream()
        if wait_before:
            streams[0].wait_stream(mine)
        with torch.cuda.stream(streams[0]):
            out = honest(*qkv, **told)
        if wait_after:
            mine.wait_stream(streams[0])
        return out

    return later(late)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_without_waiting() -> Attend:
    return on_another_stream(False, False)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_that_does_not_wait_for_inputs() -> Attend:
    return on_another_stream(False, True)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_that_nobody_waits_for() -> Attend:
    return on_another_stream(True, False)


@cheat(f"{OTHER_RESULT}|{SWITCHED}", GPU_CHEATS)
def another_current_stream() -> Attend:
    return later(switching(lambda: torch.cuda.set_stream(torch.cuda.Stream())))
