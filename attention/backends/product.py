"""A matrix product as tensor cores compute it: operands in half precision, sums in float32."""
from __future__ import annotations

from typing import Any

import torch


def wide(x: torch.Tensor) -> torch.Tensor:
    """Converts x to float32 or wider, so that the gradients of its several uses are summed in that dtype."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Computes scale (a @ b) in float32 or wider from operands rounded to `dtype`, by default that of `b`.

    Batches broadcast. In the backward pass the gradient is rounded to `dtype` too. The gradient of an operand has the
    operand's dtype: that of float32 probabilities is in float32.
    """
    dtype = dtype or b.dtype
    if torch.finfo(dtype).bits >= 32:
        return (a if scale == 1.0 else a * scale) @ b
    return _Product.apply(a, b, scale, dtype)


class _Product(torch.autograd.Function):
    """Computes the product of half-precision operands, forward and backward."""

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
        da, db = (x @ y if dtype == x.dtype else _wide(x, y)
                  for dtype, x, y in zip(ctx.dtypes, (grad, a.mT), (b.mT, grad), strict=True))
        return da.sum_to_size(a.shape), db.sum_to_size(b.shape), None, None


def _wide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Computes a @ b in float32."""
    if not a.is_cuda:
        return a.float() @ b.float()
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (x.expand(*batch, *x.shape[-2:]).flatten(0, -3) for x in (a, b))
    return torch.bmm(a, b, out_dtype=torch.float32).unflatten(0, batch)
