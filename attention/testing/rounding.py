"""Measures what an honest kernel of dtype T rounds, by letting one round.

An honest kernel takes the operands of its matrix products in T, probabilities too, sums the products in float32 or
wider, computes everything between them there, and rounds its result to T once. So does a function's oracle, evaluated
in float32, when `Rounding` rounds what enters a product. What no good kernel rounds to T an oracle computes in
float64 whatever its dtype (a decision, an inverse): its operands are rounded to float32.

Automatic differentiation multiplies what a flash backward multiplies: probabilities and gradients of scores in T. One
thing is a flash backward's own (FlashAttention-2, arXiv 2307.08691, algorithm 2): it takes P (dP - dO . out) with the
`out` that it kept, which is rounded, where the sum of P dP would not be. That moves a row by a number times P, as large
as an error of `out` makes it, its sign drawn.

A row's error is often one number times one query or key, and one evaluation in a few hundred rounds such a number
almost right. So where rows are many, in half precision, several are evaluated, each of which rounds on another grid.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
DRAWS, MANY = 6, 2 ** 16  # evaluations, from so many rows on
PRODUCTS = {op.default for op in (_aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm, _aten.mv, _aten.dot)}


class Rounding(TorchDispatchMode):
    """Rounds the operands of matrix products, float32 ones to `dtype`, float64 ones to float32, and moves what goes
    back through a float32 softmax as an `out` kept in `dtype` moves it. Each `draw` rounds otherwise."""

    def __init__(self, dtype: torch.dtype, draw: int = 0) -> None:
        super().__init__()
        self.narrow = {torch.float32: dtype, torch.float64: torch.float32}
        self.draw = draw
        self.kept = 2 * least(dtype)  # of `out`, the error of one that is kept
        self.products: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}  # the last of each shape
        self.generator: torch.Generator | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            args = [self._rounded(x) for x in args]
        result = func(*args, **(kwargs or {}))
        if func in (_aten.mm.default, _aten.bmm.default) and result.dtype == torch.float32:
            self.products[_shape(result)] = args[0], args[1]
        if func is _aten._softmax_backward_data.default and result.dtype == torch.float32:
            return self._moved(result, args[1])
        return result

    def _rounded(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype not in self.narrow:
            return x
        narrow = rounded(x, self.narrow[x.dtype], self.draw if x.dtype == torch.float32 else 0)
        return torch.where(narrow.isfinite(), narrow, x)  # what float16 does not hold, no good kernel puts into it

    def _moved(self, gradient: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Moves each row of the gradient of scores by a share of its weights; dO and vᵀ are those of the last product
        that has its shape, or one column (a sink) less."""
        rows, columns = _shape(gradient)
        for m in (columns, columns - 1):
            if (rows, m) in self.products:
                grad, values = self.products.pop((rows, m))
                out = weights[..., :m].reshape(*grad.shape[:-1], m) @ values.mT
                size = grad.square().sum(-1).sqrt() * out.square().mean(-1).sqrt()
                return gradient - weights * (self._signs(size) * self.kept * size).view(*weights.shape[:-1], 1)
        return gradient

    def _signs(self, like: torch.Tensor) -> torch.Tensor:
        if self.generator is None:
            self.generator = torch.Generator(like.device).manual_seed(self.draw)
        return 2 * torch.randint(2, like.shape, generator=self.generator, device=like.device) - 1


def _shape(x: torch.Tensor) -> tuple[int, int]:
    """Counts rows, all of them, and columns."""
    return x.numel() // x.shape[-1], x.shape[-1]


def least(dtype: torch.dtype) -> float:
    """Gives the least relative change of a number by rounding.

    It is a quarter of eps for a kernel that works in float32 and rounds its operands and its result, and a few eps for
    one that rounds every sum in the dtype itself.
    """
    eps = torch.finfo(dtype).eps
    return eps / 4 if torch.finfo(dtype).bits < 32 else 8 * eps


def rounded(x: torch.Tensor, dtype: torch.dtype, draw: int = 0) -> torch.Tensor:
    """Rounds x to `dtype` and gives it in its own; a later draw rounds on a grid that is wider by 2^(draw / DRAWS), but
    leaves alone what `dtype` holds."""
    near = x.to(dtype).to(x.dtype)
    if draw == 0:
        return near
    wider = 2.0 ** (draw / DRAWS)
    return torch.where(near == x, x, (x / wider).to(dtype).to(x.dtype) * wider)


def honest(compute: Callable[[], dict[str, torch.Tensor]], exact: dict[str, torch.Tensor], dtype: torch.dtype,
           draws: int = 1) -> dict[str, list[torch.Tensor]]:
    """Gives the errors of `compute`, which evaluates in float32, where it rounds as a kernel of `dtype` does: one of
    each tensor for each draw.

    A float64 kernel's are those of a float32 kernel, as much smaller as its eps is; 16 times that, since the exact
    values are no better themselves.
    """
    if dtype == torch.float64:
        smaller = 16 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        return {x: [smaller * error for error in errors]
                for x, errors in honest(compute, exact, torch.float32, draws).items()}
    errors: dict[str, list[torch.Tensor]] = {x: [] for x in exact}
    for draw in range(draws):
        with Rounding(dtype, draw):
            found = compute()
        for x, error in errors.items():
            error.append(rounded(found[x], dtype, draw).double() - exact[x])
    return errors
