"""PyTorch's scaled_dot_product_attention on nested (jagged) tensors: packed sequences without padding."""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from attention import masks
from attention.backends.base import Case
from attention.backends.sdpa import SDPA, math


class Nested(SDPA):
    """This backend lets PyTorch choose its kernel, and reads PyTorch's log for the reasons of a refusal."""

    def __init__(self) -> None:
        super().__init__("nested")
        self.kernels = {**self.kernels, "cpu": math.kernels["cpu"]}

    def refuses(self, case: Case) -> str | None:
        if torch.device(case.device).type == "cpu" and case.dtype.itemsize < 4:
            return (f"on a CPU PyTorch rounds the queries, keys and scores of nested tensors to {case.dtype}; "
                    "use float32, or sdpa")
        return super().refuses(case)

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        listener = _Listener()
        log = logging.getLogger("torch.nested._internal.sdpa")
        log.addHandler(listener)
        log.propagate, before = False, log.propagate
        try:
            with super().explain() as reasons:
                yield lambda: listener.reason() or reasons()
        finally:
            log.removeHandler(listener)
            log.propagate = before


class _Listener(logging.Handler):
    """Collects the lines of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def reason(self) -> str | None:
        """Gives the last line that holds a reason, not just the name of a kernel."""
        reasons = [line for line in self.lines if "not used because" not in line and "runtime disabled" not in line]
        return reasons[-1] if reasons else None


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: Any = None, key_mask: None = None) -> torch.Tensor:
    """Computes softmax attention within each of the packed sequences -> (B, H, N, D).

    `visible` must be the mask of packed sequences, which has `lengths` and `starts`.
    """
    B, H, N, _ = q_BHND.shape
    gqa = k_BGMD.shape[1] != H
    q, k, v = (_nested(x, visible) for x in (q_BHND, k_BGMD, v_BGMD))
    out = scaled_dot_product_attention(q, k, v, is_causal=band.causal, scale=scale, enable_gqa=gqa)
    return out.transpose(1, 2).values().view(B, N, H, -1).transpose(1, 2)


def _nested(x_BHND: torch.Tensor, visible: Any) -> torch.Tensor:
    """Makes a nested tensor (sequences, H, their lengths, D) of rows of packed sequences."""
    rows = x_BHND.transpose(1, 2).flatten(0, 1).contiguous()  # as PyTorch asks
    jagged = torch.nested.nested_tensor_from_jagged(rows, visible.starts(len(x_BHND)).long(),
                                                    min_seqlen=min(visible.lengths), max_seqlen=max(visible.lengths))
    return jagged.transpose(1, 2)


nested = Nested()
