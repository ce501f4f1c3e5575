"""Every attention layer of a model by itself: what it was given and gave in one pass, held against the oracle.

Logits and gradients of a whole model hide a fault of one layer under the rounding of all. Here each layer is judged by
the rule of `attention.testing` on its own q, k, v, and, where the pass went backward, on its own gradients:

    with record() as calls:
        loss(model, inputs).backward()
    report = check(calls, "softmax", layers=12, causal=True)
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from attention import Attention
from attention.testing import Reference, Report


@dataclass
class Call:
    """One call of one layer, of one sequence of its batch: q (1, H, N, D), k and v (1, G, M, D), what it gave, and the
    gradients "dq", "dk", "dv" and "dout" where the pass went backward."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    key_mask: torch.Tensor | None
    out: torch.Tensor
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


@contextmanager
def record() -> Iterator[list[Call]]:
    """Records the calls of all attention layers in their order: one sequence each, the next one for the next layer, so
    that it costs little memory. Compiled models are not seen inside."""
    calls: list[Call] = []

    def alias(module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Gives the layer views, so that what else a model does with q, k and v is no part of their gradients."""
        if not isinstance(module, Attention):
            return None
        return *(x.view_as(x) for x in args[:3]), *args[3:]

    def add(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
        if isinstance(module, Attention):
            calls.append(_call(args, out, len(calls) % len(out)))

    handles = [hooks.register_module_forward_pre_hook(alias), hooks.register_module_forward_hook(add)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _call(args: tuple[Any, ...], out: torch.Tensor, sequence: int) -> Call:
    def one(x: torch.Tensor) -> torch.Tensor:
        return x.detach()[sequence:sequence + 1].clone()

    mask = args[3] if len(args) > 3 else None
    q, k, v = args[:3]
    call = Call(one(q), one(k), one(v), None if mask is None else one(mask), one(out))
    for name, x in (("dq", q), ("dk", k), ("dv", v), ("dout", out)):
        if x.requires_grad:
            x.register_hook(lambda gradient, name=name: call.gradients.__setitem__(name, one(gradient)))
    return call


def check(calls: list[Call], function: str, *, layers: int, causal: bool, scale: float | None = None,
          **options: Any) -> Report:
    """Holds the calls of one pass of a model of so many layers against the oracle of the function it should compute.

    The report has of each tensor the layer that comes closest to its bound. A gradient that did not arrive is one of
    zeros, if another of that call did.
    """
    report = Report(f"attention in {len(calls)} of {layers} layers", {"missing layers": abs(layers - len(calls))},
                    {"missing layers": 0.5})  # of a whole number
    for number, call in enumerate(calls):
        reference = Reference(function, call.q, call.k, call.v, causal=causal, scale=scale, key_mask=call.key_mask,
                              **options)
        grad = "dout" in call.gradients
        if grad:
            reference.grad_out = call.gradients["dout"]
        layer = reference.check(_Replay(call), grad=grad)
        for tensor, error in layer.errors.items():
            _keep_worse(report, tensor, f"{tensor} of layer {number}", error, layer.bounds[tensor])
        if not report.bad:  # the layers after it have it from this one
            report.bad.update({f"{tensor} of layer {number}": what for tensor, what in layer.bad.items()})
    return report


def _keep_worse(report: Report, tensor: str, name: str, error: float, bound: float) -> None:
    known = next((each for each in report.errors if each.startswith(f"{tensor} of layer ")), None)
    if known is not None:
        worst = report.errors[known] / report.bounds[known]
        if error / bound <= worst or worst != worst:  # NaN is the worst
            return
        del report.errors[known], report.bounds[known]
    report.errors[name], report.bounds[name] = error, bound


class _Replay:
    """A variant that gives what was recorded, forward and backward."""

    name = "attention layer"

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        return _Recorded.apply(q, k, v, self.call)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call) -> torch.Tensor:
        ctx.call = call
        return call.out.clone()

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
        call = ctx.call
        return *(call.gradients.get(f"d{x}", torch.zeros_like(getattr(call, x))) for x in "qkv"), None
