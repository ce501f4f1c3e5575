"""Bare attention kernels are made ready: all variants of one shape on the same inputs, held against one oracle.

They are checked and tried on `needles`, in which every key matters, and timed on normal inputs: a variant that skips
what weighs nothing (ALiBi's far keys) would skip less where some queries are long. The backward pass alone is timed on
the needles too, for it can't be given other inputs after its forward pass.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

import attention
from attention.testing import Reference, Report, inputs, needles
from perf.bench.contract import Prepared
from perf.bench.values import Values
from perf.workloads.workload import Workload


class Kernels:
    """Holds the variants of one shape, with what they share: inputs, the oracle's results, and the reports on each."""

    def __init__(self, w: Workload, device: torch.device) -> None:
        shape: dict[str, Any] = {"batch": w.batch, "heads": w.heads, "kv_heads": w.kv_heads, "n": w.n, "m": w.m,
                                 "head_dim": w.head_dim, "dtype": attention.DTYPES[w.dtype], "device": device}
        self.device = device
        self.reference = Reference(w.function, *needles(**shape, seed=1), causal=w.causal)  # keys that are not timed
        self.qkv, self.grad_out = Values(inputs(**shape)), Values((self.reference.grad_out.clone(),))
        self.modules: dict[str, attention.Attention] = {}
        self.reports: dict[tuple[str, bool], Report] = {}

    def prepare(self, w: Workload) -> Prepared:
        """Builds the variant, if no workload before did, and the call, on the first values."""
        self.qkv.restore()
        self.grad_out.restore()
        if w.variant not in self.modules:
            self.modules[w.variant] = self._build(w)
        if w.phase == "backward":
            keep_buffers()
            self.qkv.write(self.reference.inputs[:3])
        return Prepared(self._call(w), lambda: self._report(w), lambda: self._reference(w),
                        self.modules[w.variant].kept_bytes, lambda: self._renew(w),
                        lambda: Trial(w, self.reference, self.qkv, self.grad_out))

    def _build(self, w: Workload) -> attention.Attention:
        module = attention.create(w.variant, heads=w.heads, kv_heads=w.kv_heads, head_dim=w.head_dim, seq_len=w.m,
                                  causal=w.causal, device=self.device, dtype=attention.DTYPES[w.dtype])
        with torch.no_grad():  # what is timed has the parameters that are checked
            for name, value in zip(self.reference.learned, self.reference.inputs[3:], strict=True):
                module.get_parameter(name).copy_(value)
        return module

    def _reference(self, w: Workload) -> None:
        """Computes, once for all variants of the shape, what the phase must give."""
        assert self.reference.bounds
        assert not w.needs_grad or self.reference.gradient_bounds

    def _report(self, w: Workload) -> Report:
        key = w.variant, w.needs_grad
        if key not in self.reports:
            self.reports[key] = self.reference.check(self.modules[w.variant], grad=w.needs_grad)
        return self.reports[key]

    def _renew(self, w: Workload) -> None:
        """Writes new values into what the call reads; the backward pass alone reads the forward pass's inputs as well,
        which it may not see changed."""
        if w.phase != "backward":
            self.qkv.renew()
        if w.needs_grad:
            self.grad_out.renew()

    def _call(self, w: Workload) -> Callable[[], Any]:
        module, qkv, (grad_out,) = self.modules[w.variant], self.qkv.tensors, self.grad_out.tensors
        if w.phase == "forward":
            return torch.no_grad()(lambda: module(*qkv))
        leaves = [x.detach().requires_grad_() for x in qkv]
        if w.phase == "forward-backward":
            return lambda: torch.autograd.grad(module(*leaves), [*leaves, *module.parameters()], grad_out,
                                               allow_unused=True)
        return _Backward(module, leaves, grad_out)


class _Backward:
    """Calls the backward pass alone, again and again over the graph of one forward pass."""

    def __init__(self, module: torch.nn.Module, leaves: list[torch.Tensor], grad_out: torch.Tensor) -> None:
        self.out, self.grad_out = module(*leaves), grad_out
        self.leaves = [*leaves, *module.parameters()]

    def __call__(self) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(self.out, self.leaves, self.grad_out, retain_graph=True, allow_unused=True)


def keep_buffers() -> None:
    """Keeps the tensors that compiled code saved for its backward pass, which it may otherwise give away."""
    import torch._functorch.config as compiler

    compiler.donated_buffer = False


class Trial:
    """Writes the trial's values, into `qkv` and where gradients are computed into `grad_out`, and judges the results
    on them.

    Attention is linear in v, and a gradient in that of the output: with the sign of either turned, each result is the
    one that the reference has, with its sign turned. So the call gets inputs that it has not seen, at no cost of a
    second reference, and every row is judged.
    """

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
