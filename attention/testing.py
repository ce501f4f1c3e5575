"""Is a variant right? Seeded inputs, the float64 reference, and the error-ratio rule.

The rule, after flash-attention's own tests: for inputs of dtype T,

    error(variant) <= K x error(the formula evaluated in T) + FLOOR x eps(T)

for the output and for the gradients of q, k and v. An error is the largest difference to the float64
oracle, relative to the values around it: to the largest of its row (one position of one head), or to
the root mean square of the whole where the row is smaller still. A long causal output is large in
its first rows and small in its last; this way the last count as much. A gradient is measured against
the mean of the three, since one may cancel to nothing (a query that sees one key).

Every flash backward starts from the output it kept in T, so what that rounding does to dq and dk,
worked out exactly, is allowed where it is more than the formula's own error.

In float64 the formula is its own oracle, and rounds as much; there twice the eager backend's error
stands in. FLOOR is for what chance leaves in small tensors. A half-precision kernel works in float32
and rounds its operands and its result, a few eps. A float32 or float64 kernel rounds at every step in
T itself, the scores foremost: an error of eps x |score| there is a relative error of the weight; dq and
dk are differences of two such products, sqrt(D) large, times the scale.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attention.module import Attention, create, oracle

K = 2.0
FLOOR = {torch.bfloat16: 4.0, torch.float16: 4.0, torch.float32: 32.0, torch.float64: 32.0}

Tensors = dict[str, torch.Tensor]


def inputs(*, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None, head_dim: int,
           dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0,
           grad: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (B, H, N, D), k and v (B, G, M, D): standard normal, the same for a seed on one kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    kv_heads, m = kv_heads or heads, m or n
    shapes = [(batch, heads, n, head_dim), (batch, kv_heads, m, head_dim), (batch, kv_heads, m, head_dim)]
    q, k, v = (torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_(grad)
               for shape in shapes)
    return q, k, v


@dataclass(frozen=True)
class Report:
    """What a check found: error and bound by tensor ("out", "dq", "dk", "dv")."""

    name: str
    errors: dict[str, float]
    bounds: dict[str, float]

    @property
    def ok(self) -> bool:
        return all(self.errors[x] <= self.bounds[x] for x in self.errors)  # NaN is never <=

    @property
    def worst(self) -> float:
        """The largest error over its bound; NaN if any error is."""
        ratios = [self.errors[x] / self.bounds[x] for x in self.errors]
        return next((r for r in ratios if r != r), max(ratios))

    @property
    def message(self) -> str:
        wrong = [f"{x} {self.errors[x]:.2e} > {self.bounds[x]:.2e}" for x in self.errors
                 if not self.errors[x] <= self.bounds[x]]
        return f"{self.name} is numerically wrong: {', '.join(wrong)}" if wrong else f"{self.name} is right"


class Reference:
    """What a function must give on one set of inputs, computed once for all of its backends."""

    def __init__(self, function: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False,
                 scale: float | None = None, key_mask: torch.Tensor | None = None, **options: Any) -> None:
        self.inputs = tuple(x.detach() for x in (q, k, v))
        self.formula: Callable[..., torch.Tensor] = functools.partial(
            oracle, function, causal=causal, scale=scale, key_mask=key_mask, **options)
        self.scale = scale or q.shape[-1] ** -0.5
        if q.dtype == torch.float64:
            eager = create(f"{function}:eager", heads=q.shape[1], kv_heads=k.shape[1], head_dim=q.shape[3],
                           causal=causal, scale=scale, **options)
            self.same_dtype: Callable[..., torch.Tensor] = functools.partial(eager, key_mask_BM=key_mask)
        else:
            self.same_dtype = functools.partial(self.formula, dtype=q.dtype)
        self.key_mask = key_mask
        generator = torch.Generator(q.device).manual_seed(1)
        self.grad_out = torch.randn(q.shape, generator=generator, device=q.device).to(q.dtype)

    @functools.cached_property
    def exact(self) -> Tensors:
        with torch.no_grad():
            return {"out": self.formula(*self.inputs, dtype=torch.float64)}

    @functools.cached_property
    def exact_gradients(self) -> Tensors:
        wide = tuple(x.double() for x in self.inputs)
        return gradients(functools.partial(self.formula, dtype=torch.float64), wide, self.grad_out.double())

    @functools.cached_property
    def bounds(self) -> dict[str, float]:
        with torch.no_grad():
            return self._bounds({"out": self.same_dtype(*self.inputs)}, self.exact)

    @functools.cached_property
    def gradient_bounds(self) -> dict[str, float]:
        same = gradients(self.same_dtype, self.inputs, self.grad_out)
        kept = {x: self.exact_gradients[x] + shift for x, shift in self._kept_output_shifts().items()}
        own, from_kept = (self._bounds(found, self.exact_gradients) for found in (same, self.exact_gradients | kept))
        return {x: max(own[x], from_kept[x]) for x in own}

    def _kept_output_shifts(self) -> Tensors:
        """What dq and dk change by if the backward pass starts from the exact output rounded to T.

        With delta = sum_d grad_out x (rounded - out), FlashAttention-2's backward (arXiv 2307.08691, algorithm 2)
        is off by -scale delta P k in dq and by -scale Pᵀ (delta q) in dk.
        """
        q, k, v = (x.double() for x in self.inputs)
        out = self.exact["out"]
        delta = (self.grad_out.double() * (out.to(self.inputs[0].dtype).double() - out)).sum(-1, keepdim=True)
        with torch.no_grad():
            dq = -self.scale * delta * self.formula(q, k, k, dtype=torch.float64)
        formula = functools.partial(self.formula, dtype=torch.float64)
        return {"dq": dq, "dk": gradients(formula, (q, k, v), -self.scale * delta * q)["dv"]}

    def _bounds(self, same: Tensors, exact: Tensors) -> dict[str, float]:
        dtype = self.inputs[0].dtype
        k = 2 * K if dtype == torch.float64 else K
        errors, eps = _errors(same, exact), torch.finfo(dtype).eps
        return {x: k * errors[x] + FLOOR[dtype] * eps * self._steepness(x) for x in exact}

    def _steepness(self, name: str) -> float:
        """By how much more a rounded step weighs in `name` than in the output."""
        q = self.inputs[0]
        if name not in ("dq", "dk") or torch.finfo(q.dtype).bits < 32:
            return 1.0
        return 2 * max(1.0, self.scale * q.shape[-1] ** 0.5)

    def check(self, variant: Attention | Callable[..., torch.Tensor], *, grad: bool = False) -> Report:
        """Runs `variant` on the inputs and holds it against the exact values.

        Raises what the variant raises; a wrong one is told by the report.
        """
        call = variant if self.key_mask is None else functools.partial(variant, key_mask_BM=self.key_mask)
        with torch.no_grad():
            errors = _errors({"out": call(*self.inputs)}, self.exact)
        bounds = dict(self.bounds)
        if grad:
            errors |= _errors(gradients(call, self.inputs, self.grad_out), self.exact_gradients)
            bounds |= self.gradient_bounds
        return Report(getattr(variant, "name", "variant"), errors, bounds)


def gradients(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], grad_out: torch.Tensor) -> Tensors:
    """Gradients of sum(call(q, k, v) * grad_out) for q, k and v."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = call(*leaves)
        return dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out, leaves, grad_out.to(out.dtype)), strict=True))


def check(variant: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grad: bool = False,
          key_mask: torch.Tensor | None = None) -> Report:
    """The error-ratio rule for one built variant on one set of inputs."""
    reference = Reference(variant.name.partition(":")[0], q, k, v, causal=variant.causal, scale=variant.scale,
                          key_mask=key_mask, **variant.options)
    return reference.check(variant, grad=grad)


def _errors(found: Tensors, exact: Tensors) -> dict[str, float]:
    """The largest difference relative to its row, or to the mean of all; NaN anywhere gives NaN."""
    mean_square = torch.cat([x.flatten() for x in exact.values()]).square().mean()
    errors = {}
    for name, x in exact.items():
        if found[name].shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(found[name].shape)}, expected {tuple(x.shape)}")
        size = x.abs().amax(-1, keepdim=True).maximum(mean_square.sqrt()).clamp_min(torch.finfo(x.dtype).tiny)
        errors[name] = ((found[name].to(x.dtype) - x).abs() / size).max().item()
    return errors
