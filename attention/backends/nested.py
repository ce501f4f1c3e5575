"""scaled_dot_product_attention of nested (jagged) tensors: packed sequences without padding, in plain PyTorch."""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from attention import masks
from attention.backends.sdpa import SDPA, math


class Nested(SDPA):
    """PyTorch chooses among its kernels; it says why not in its log."""

    def __init__(self) -> None:
        super().__init__("nested")
        self.kernels = {**self.kernels, "cpu": math.kernels["cpu"]}

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        heard = _Heard()
        log = logging.getLogger("torch.nested._internal.sdpa")
        log.addHandler(heard)
        log.propagate, before = False, log.propagate
        try:
            with super().explain() as reasons:
                yield lambda: heard.reason() or reasons()
        finally:
            log.removeHandler(heard)
            log.propagate = before


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def reason(self) -> str | None:
        """The last reason given that names more than the kernel."""
        told = [line for line in self.lines if "not used because" not in line and "runtime disabled" not in line]
        return told[-1] if told else None


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: Any = None, key_mask: None = None) -> torch.Tensor:
    """The one `visible` it takes is packed sequences', by its `lengths`."""
    B, H, N, _ = q_BHND.shape
    grouped = k_BGMD.shape[1] != H
    q, k, v = (_nested(x, visible) for x in (q_BHND, k_BGMD, v_BGMD))
    out = scaled_dot_product_attention(q, k, v, is_causal=band.causal, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).values().view(B, N, H, -1).transpose(1, 2)


def _nested(x_BHND: torch.Tensor, visible: Any) -> torch.Tensor:
    """(sequences, H, their lengths, D)"""
    rows = x_BHND.transpose(1, 2).flatten(0, 1).contiguous()  # as PyTorch asks
    jagged = torch.nested.nested_tensor_from_jagged(rows, visible.starts(len(x_BHND)).long(),
                                                    min_seqlen=min(visible.lengths), max_seqlen=max(visible.lengths))
    return jagged.transpose(1, 2)


nested = Nested()
