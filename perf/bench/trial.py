"""The trial of a bare kernel has exact results of inputs that the call has not seen, at no cost of a second reference.

Attention is linear in v, and a gradient in that of the output: with the sign of either turned, each result is the one
that the reference has, with its sign turned. So the call gets the reference's inputs, but for one sign, and every row
is judged.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from attention.testing import Reference, Report
from perf.bench.values import Values
from perf.workloads.workload import Workload


class Trial:
    """Writes the trial's values, into `qkv` and where gradients are computed into `grad_out`, and judges the results
    on them."""

    def __init__(self, w: Workload, reference: Reference, qkv: Values, grad_out: Values) -> None:
        self.w, self.reference, self.qkv, self.grad_out = w, reference, qkv, grad_out
        self.read: Sequence[torch.Tensor] = (*qkv.tensors, *(grad_out.tensors if w.needs_grad else ()))

    def write(self) -> None:
        """Writes the reference's inputs, one of them with its sign turned; the backward pass alone has them already."""
        q, k, v = self.reference.inputs[:3]
        if self.w.phase != "backward":
            self.qkv.write([q, k, v if self.w.needs_grad else -v])
        if self.w.needs_grad:
            self.grad_out.write([-self.reference.grad_out])

    def judge(self, result: Any) -> Report:
        """Holds a result of the call against the exact one."""
        if self.w.needs_grad:
            gradients = {f"d{name}": torch.zeros_like(x) if gradient is None else -gradient for name, x, gradient
                         in zip(self.reference.names, self.reference.inputs, result, strict=True)}
            return self.reference.judge(self.w.variant, gradients)
        report = self.reference.judge(self.w.variant, {"out": -result})
        return report if report.ok else self._own.judge(self.w.variant, {"out": result})

    @functools.cached_property
    def _own(self) -> Reference:
        """Evaluates the formula on the trial's values: a function of others may not be linear in v."""
        q, k, v = self.reference.inputs[:3]
        return Reference(self.w.function, q, k, -v, causal=self.w.causal)
