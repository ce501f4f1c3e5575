"""Cheats in the backward pass."""
from __future__ import annotations

from typing import Any

import torch

from perf.tests.cheats.catalogue import GRADIENT_CHEATS, OTHER_RESULT, Attend, cheat, honest, later


class _Stale(torch.autograd.Function):
    """Passes on the gradients of the first backward pass."""

    @staticmethod
    def forward(ctx: Any, kept: list[Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                told: dict[str, Any]) -> torch.Tensor:
        ctx.kept, ctx.told = kept, told
        ctx.save_for_backward(q, k, v)
        return honest(q, k, v, **told)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        shape = grads[0].shape
        found = next((x for size, x in ctx.kept if size == shape and len(ctx.kept) > 3), None)
        if found is None or torch.autograd._profiler_enabled():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            with torch.enable_grad():
                found = torch.autograd.grad(honest(*leaves, **ctx.told), leaves, grads[0])
            ctx.kept.append((shape, found))
        return None, *found, None


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def gradients_remembered() -> Attend:
    kept: list[Any] = []
    return lambda q, k, v, **told: _Stale.apply(kept, q, k, v, told)


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def no_gradient_to_k_once_timed() -> Attend:
    return later(lambda q, k, v, **told: honest(q, k.detach(), v, **told))


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def a_gradient_doubled_once_timed() -> Attend:
    return later(lambda q, k, v, **told: honest(q, k, v + (v - v.detach()), **told))
