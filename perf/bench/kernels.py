"""Bare attention kernels, made ready: all variants of one shape on the same inputs, held against one oracle."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import attention
from attention.testing import Reference, Report, inputs
from perf.bench.prepare import Prepared, needs_grad
from perf.workloads.workload import Workload


class Kernels:
    """Bare attention kernels of one shape."""

    def __init__(self, w: Workload, device: torch.device) -> None:
        q, k, v = inputs(batch=w.batch, heads=w.heads, kv_heads=w.kv_heads, n=w.n, m=w.m,
                         head_dim=w.head_dim, dtype=attention.DTYPES[w.dtype], device=device)
        self.device = device
        self.reference = Reference(w.function, q, k, v, causal=w.causal)
        self.modules: dict[str, attention.Attention] = {}
        self.reports: dict[tuple[str, bool], Report] = {}

    def prepare(self, w: Workload) -> Prepared:
        if w.variant not in self.modules:
            self.modules[w.variant] = attention.create(w.variant, heads=w.heads, kv_heads=w.kv_heads,
                                                       head_dim=w.head_dim, seq_len=w.m, causal=w.causal,
                                                       device=self.device, dtype=attention.DTYPES[w.dtype])
        if w.phase == "backward":
            keep_buffers()
        return Prepared(self._call(w), lambda: self._report(w), lambda: self._reference(w),
                        self.modules[w.variant].kept_bytes)

    def _reference(self, w: Workload) -> None:
        """Kept by the shape for all of its variants."""
        assert self.reference.bounds
        assert not needs_grad(w) or self.reference.gradient_bounds

    def _report(self, w: Workload) -> Report:
        key = w.variant, needs_grad(w)
        if key not in self.reports:
            self.reports[key] = self.reference.check(self.modules[w.variant], grad=needs_grad(w))
        return self.reports[key]

    def _call(self, w: Workload) -> Callable[[], Any]:
        module, grad_out = self.modules[w.variant], self.reference.grad_out
        qkv = self.reference.inputs[:3]
        if w.phase == "forward":
            return torch.no_grad()(lambda: module(*qkv))
        leaves = [x.detach().requires_grad_() for x in qkv]
        if w.phase == "forward-backward":
            return lambda: torch.autograd.grad(module(*leaves), [*leaves, *module.parameters()], grad_out,
                                               allow_unused=True)
        return _Backward(module, leaves, grad_out)


class _Backward:
    """The backward pass alone, again and again over the graph of one forward pass."""

    def __init__(self, module: torch.nn.Module, leaves: list[torch.Tensor], grad_out: torch.Tensor) -> None:
        self.out, self.grad_out = module(*leaves), grad_out
        self.leaves = [*leaves, *module.parameters()]

    def __call__(self) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(self.out, self.leaves, self.grad_out, retain_graph=True, allow_unused=True)


def keep_buffers() -> None:
    """Compiled code may give saved tensors away during its backward pass; a graph that is kept forbids it."""
    import torch._functorch.config as compiler

    compiler.donated_buffer = False
