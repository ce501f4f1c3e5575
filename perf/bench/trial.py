"""The trial of a bare kernel has exact results of inputs that the call has not seen, of some rows where all cost much.

Rows are taken from the start, the end and between, each with all the keys that it sees; a gradient reaches the last of
them only, so that the gradients of q elsewhere are zero, and those of k and v are the last rows' alone.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attention import registry
from attention.testing import Reference, Report
from perf.bench.values import Values
from perf.workloads.workload import Workload

WHOLE = 1024  # queries up to which all rows are judged
ROWS = 64  # of a block
BLOCKS = 4


@dataclass(frozen=True)
class Block:
    """Holds some rows of all heads, and what they must be."""

    start: int
    stop: int
    reference: Reference


class Trial:
    """Computes the exact results of a phase on the inputs that stand in q, k, v when this is made."""

    def __init__(self, w: Workload, qkv: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self.w, self.names = w, names
        self.grad = w.phase != "forward"
        self.read: Sequence[torch.Tensor] = qkv
        self.blocks = [self._block(start, stop, qkv) for start, stop in _rows(w)[-1 if self.grad else 0:]]

    def _block(self, start: int, stop: int, qkv: Sequence[torch.Tensor]) -> Block:
        q, k, v = qkv
        keys = stop + self.w.m - self.w.n if self.w.causal else self.w.m
        made = Reference(self.w.function, q[:, :, start:stop], k[:, :, :keys], v[:, :, :keys], causal=self.w.causal)
        if self.grad:
            signs = 1 - 2 * (torch.arange(made.grad_out.shape[-1], device=q.device) % 2)
            made.grad_out = made.grad_out * signs.to(q.dtype)  # not what the check's was
        assert made.bounds
        assert not self.grad or made.gradient_bounds  # computed now: the inputs change
        return Block(start, stop, made)

    def write(self, grad_out: Values) -> None:
        """Writes the gradient of the output that the trial's exact gradients belong to."""
        if self.grad:
            (x,), block = grad_out.tensors, self.blocks[-1]
            grad_out.renew()  # it is not the first one any more
            x.zero_()[:, :, block.start:block.stop] = block.reference.grad_out
            self.read = [*self.read[:3], x]

    def judge(self, result: Any) -> Report:
        """Holds a result of the call against the exact one: the first report that finds it wrong, or the last."""
        if self.grad:
            return self._judge_gradients(result)
        for block in self.blocks:
            report = block.reference.judge(self.w.variant, {"out": result[:, :, block.start:block.stop]})
            if not report.ok:
                break
        return report

    def _judge_gradients(self, result: Sequence[torch.Tensor | None]) -> Report:
        block = self.blocks[-1]
        gradients = {f"d{name}": torch.zeros_like(x) if gradient is None else gradient for name, x, gradient
                 in zip(self.names, block.reference.inputs, result, strict=True)}
        elsewhere, gradients["dq"] = gradients["dq"][:, :, :block.start], gradients["dq"][:, :, block.start:]
        if elsewhere.any():
            return Report(self.w.variant, {"dq of rows without a gradient": elsewhere.abs().max().item()},
                          {"dq of rows without a gradient": 0.0})
        return block.reference.judge(self.w.variant, gradients)


def _rows(w: Workload) -> list[tuple[int, int]]:
    """Gives start and stop of the rows to judge, in order: all, unless a row of the function depends on no other
    query."""
    alone = registry.function(w.function).core and (w.causal or w.function == "softmax")
    if w.n <= WHOLE or not alone:
        return [(0, w.n)]
    between = sorted(random.Random(w.n).sample(range(1, w.n // ROWS - 1), BLOCKS - 2))
    return [(block * ROWS, (block + 1) * ROWS) for block in (0, *between)] + [(w.n - ROWS, w.n)]
