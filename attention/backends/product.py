"""A product as tensor cores take it: operands in half precision, their products summed in float32."""
from __future__ import annotations

from typing import Any

import torch


def wide(x: torch.Tensor) -> torch.Tensor:
    """x in float32 or wider: where it is used more than once, its gradients are summed there."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """scale (a @ b) in float32 or wider, of operands rounded to `dtype` (that of `b` unless given); batches broadcast.

    Backwards the gradient is such an operand too. An operand's own gradient has its own dtype: that of float32
    probabilities is in float32.
    """
    dtype = dtype or b.dtype
    if torch.finfo(dtype).bits >= 32:
        return (a if scale == 1.0 else a * scale) @ b
    return _Product.apply(a, b, scale, dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
        ctx.scale, ctx.dtypes = scale, (a.dtype, b.dtype)
        a, b = a.to(dtype), b.to(dtype)
        ctx.save_for_backward(a, b)
        return _wide(a, b).mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b = ctx.saved_tensors
        grad = (grad * ctx.scale).to(a.dtype)
        of_a, of_b = (x @ y if dtype == x.dtype else _wide(x, y)
                      for dtype, x, y in zip(ctx.dtypes, (grad, a.mT), (b.mT, grad), strict=True))
        return of_a.sum_to_size(a.shape), of_b.sum_to_size(b.shape), None, None


def _wide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b in float32."""
    if not a.is_cuda:
        return a.float() @ b.float()
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (x.expand(*batch, *x.shape[-2:]).flatten(0, -3) for x in (a, b))
    return torch.bmm(a, b, out_dtype=torch.float32).unflatten(0, batch)
