"""Is a variant right? Seeded inputs, the float64 reference, and the error-ratio rule.

The rule, after flash-attention's own tests: for inputs of dtype T,

    error(variant) <= K x error(the formula evaluated in T) + FLOOR x eps(T)

for the output and for the gradients of q, k and v. An error is the largest difference to the float64
oracle, relative to the values around it: to the largest of its row (one position of one head), or to
the root mean square of the whole where the row is smaller still. A long causal output is large in
its first rows and small in its last; this way the last count as much. A gradient is measured against
the mean of the three, since one may cancel to nothing (a query that sees one key).

Every flash backward works with the output that it kept in T. What that and the rounding of its sums can do
to dq and dk is worked out, and allowed where it is more than the formula's own error.

In float64 the formula is its own oracle, and rounds as much; there twice the eager backend's error
stands in. FLOOR is for what chance leaves in small tensors. A half-precision kernel works in float32
and rounds its operands and its result, a few eps. A float32 or float64 kernel rounds at every step in
T itself, the scores foremost: an error of eps x |score| there is a relative error of the weight.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attention import registry
from attention.module import Attention, create, oracle

K = 2.0
FLOOR = {torch.bfloat16: 4.0, torch.float16: 4.0, torch.float32: 32.0, torch.float64: 32.0}

Tensors = dict[str, torch.Tensor]


def inputs(*, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None, head_dim: int,
           value_dim: int | None = None, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
           seed: int = 0, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (B, H, N, D), k (B, G, M, D), v (B, G, M, value_dim): standard normal, the same for a seed on a
    kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    kv_heads, m = kv_heads or heads, m or n
    shapes = [(batch, heads, n, head_dim), (batch, kv_heads, m, head_dim), (batch, kv_heads, m, value_dim or head_dim)]
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
        described = registry.function(function)
        shape: dict[str, Any] = {"heads": q.shape[1], "kv_heads": k.shape[1], "head_dim": q.shape[3], "causal": causal,
                 "seq_len": k.shape[2]}
        initial = described.initial(**shape, **described.complete(options))
        placed = {x: p.detach().to(q.device, q.dtype if p.is_floating_point() else p.dtype)
                  for x, p in initial.items()}
        self.learned = tuple(x for x, p in initial.items() if isinstance(p, torch.nn.Parameter))
        self.names = ("q", "k", "v", *self.learned)
        self.inputs = tuple(x.detach() for x in (q, k, v)) + tuple(placed[x] for x in self.learned)
        self.scale, self.key_mask = scale or q.shape[-1] ** -0.5, key_mask
        self.flash = described.flash and described.kind != "approximate"

        def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *learned: torch.Tensor,
                    dtype: torch.dtype) -> torch.Tensor:
            params = {**placed, **dict(zip(self.learned, learned, strict=True))}
            return oracle(function, q, k, v, causal=causal, scale=scale, key_mask=key_mask, dtype=dtype,
                          params=params, **options)

        self.formula = formula
        self.same_dtype: Callable[..., torch.Tensor] = functools.partial(formula, dtype=q.dtype)
        if q.dtype == torch.float64:
            self.same_dtype = self._called(create(f"{function}:eager", **shape, scale=scale, device=q.device,
                                                  dtype=q.dtype, value_dim=v.shape[3], **options))
        generator = torch.Generator(q.device).manual_seed(1)
        shape_of_out = (*q.shape[:3], v.shape[3])
        self.grad_out = torch.randn(shape_of_out, generator=generator, device=q.device).to(q.dtype)

    @functools.cached_property
    def exact(self) -> Tensors:
        with torch.no_grad():
            return {"out": self.formula(*self.inputs, dtype=torch.float64)}

    @functools.cached_property
    def exact_gradients(self) -> Tensors:
        wide = tuple(x.double() for x in self.inputs)
        return gradients(functools.partial(self.formula, dtype=torch.float64), wide, self.grad_out.double(),
                         self.names)

    def _called(self, variant: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`variant` as a function of q, k, v and the learned parameters."""
        masked = {} if self.key_mask is None else {"key_mask_BM": self.key_mask}

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *learned: torch.Tensor) -> torch.Tensor:
            if not learned:
                return variant(q, k, v, **masked)
            assert isinstance(variant, torch.nn.Module)
            return torch.func.functional_call(variant, dict(zip(self.learned, learned, strict=True)), (q, k, v), masked)

        return call

    @functools.cached_property
    def bounds(self) -> dict[str, float]:
        with torch.no_grad():
            return self._bounds({"out": self.same_dtype(*self.inputs)}, self.exact)

    @functools.cached_property
    def gradient_bounds(self) -> dict[str, float]:
        same = gradients(self.same_dtype, self.inputs, self.grad_out, self.names)
        if not self.flash:
            return self._bounds(same, self.exact_gradients)
        kept = {x: self.exact_gradients[x] + shift for x, shift in self._kept_output_shifts().items()}
        own, from_kept = (self._bounds(found, self.exact_gradients) for found in (same, self.exact_gradients | kept))
        return {x: max(own[x], from_kept[x]) for x in own}

    def _kept_output_shifts(self) -> Tensors:
        """How far dq and dk may be off because the backward pass takes P (grad_out . v - grad_out . out).

        That is FlashAttention-2's backward (arXiv 2307.08691, algorithm 2): with grad_out . out off by delta, dq is
        off by scale delta P k, and dk by scale Pᵀ (delta q). delta has two parts: `out` as it was kept in T (rounded
        once from float32 by a half-precision kernel, computed in T by others), and the rounding of the sums over D.
        """
        q, k, _, *learned = (x.double() for x in self.inputs)
        exact, dtype, grad_out = self.exact["out"], self.inputs[0].dtype, self.grad_out.double()
        half = torch.finfo(dtype).bits < 32
        with torch.no_grad():
            kept = exact.to(dtype) if half else self.same_dtype(*self.inputs)
        values = k.clone().requires_grad_()  # k in place of v: the result is P k, and its gradient of x is Pᵀ x
        with torch.enable_grad():
            mean_k = self.formula(q, k, values, *learned, dtype=torch.float64)
        delta = (grad_out * (kept.double() - exact)).sum(-1, keepdim=True)
        eps = torch.finfo(torch.float32 if half else dtype).eps
        summed = eps * (grad_out * exact).abs().sum(-1, keepdim=True)

        def to_keys(x: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad(mean_k, values, x, retain_graph=True, materialize_grads=True)[0].abs()

        return {"dq": self.scale * (delta.abs() + summed) * mean_k.detach().abs(),
                "dk": self.scale * (to_keys(delta * q) + to_keys(summed * q.abs()))}

    def _bounds(self, same: Tensors, exact: Tensors) -> dict[str, float]:
        dtype = self.inputs[0].dtype
        k = 2 * K if dtype == torch.float64 else K
        errors = _errors(same, exact)
        return {x: k * errors[x] + FLOOR[dtype] * torch.finfo(dtype).eps for x in exact}

    def check(self, variant: Attention | Callable[..., torch.Tensor], *, grad: bool = False) -> Report:
        """Runs `variant` on the inputs and holds it against the exact values.

        Raises what the variant raises; a wrong one is told by the report.
        """
        call = self._called(variant)
        with torch.no_grad():
            found = {"out": call(*self.inputs)}
        if grad:
            found |= gradients(call, self.inputs, self.grad_out, self.names)
        return self.judge(getattr(variant, "name", "variant"), found)

    def judge(self, name: str, found: Tensors) -> Report:
        """Holds `found`, an output, gradients or both, against the exact values."""
        errors, bounds = {}, {}
        if "out" in found:
            errors, bounds = _errors({"out": found["out"]}, self.exact), dict(self.bounds)
        if set(found) - {"out"}:
            errors |= _errors(found, self.exact_gradients)
            bounds |= self.gradient_bounds
        return Report(name, errors, bounds)


def gradients(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], grad_out: torch.Tensor,
              names: tuple[str, ...] = ("q", "k", "v")) -> Tensors:
    """Gradients of sum(call(*inputs) * grad_out) for each input: "dq", "dk", "dv", and so on by `names`."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = call(*leaves)
        found = torch.autograd.grad(out, leaves, grad_out.to(out.dtype), materialize_grads=True)
        return {f"d{name}": x for name, x in zip(names, found, strict=True)}


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
