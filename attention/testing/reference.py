"""`Reference` holds the right results of a function on one set of inputs and checks its variants by the rule."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attention import registry
from attention.module import Attention, oracle
from attention.testing.rounding import DRAWS, MANY, honest
from attention.testing.rule import Measure, Report, bad_numbers, ratio

UNDECIDED = 0.01  # of the rows may hang on a decision that rounding takes
LOGITS = ("table", "bias", "sinks_H", "gate")  # parameters that are added to one

Tensors = dict[str, torch.Tensor]


class Reference:
    """Holds the exact values in float64 and how far a variant may be from them. Learned parameters are not the initial
    ones, so that one which is ignored shows."""

    def __init__(self, function: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False,
                 scale: float | None = None, key_mask: torch.Tensor | None = None, **options: Any) -> None:
        described = registry.function(function)
        complete = described.complete(options)
        initial = described.initial(heads=q.shape[1], kv_heads=k.shape[1], head_dim=q.shape[3], causal=causal,
                                    seq_len=k.shape[2], **complete)
        placed = {x: p.to(q.device, q.dtype if p.is_floating_point() else p.dtype)
                  for x, p in _moved(initial).items()}
        self.learned = tuple(x for x, p in initial.items() if isinstance(p, torch.nn.Parameter))
        self.names = ("q", "k", "v", *self.learned)
        self.inputs = tuple(x.detach() for x in (q, k, v)) + tuple(placed[x] for x in self.learned)
        self.dtype, self.key_mask = q.dtype, key_mask
        many = torch.finfo(q.dtype).bits < 32 and max(x.shape[:3].numel() for x in (q, k)) >= MANY
        self.draws = DRAWS if many else 1  # of rounding: the more rows there are, the less one sample tells

        def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *learned: torch.Tensor,
                    dtype: torch.dtype) -> torch.Tensor:
            params = {**placed, **dict(zip(self.learned, learned, strict=True))}
            return oracle(function, q, k, v, causal=causal, scale=scale, key_mask=key_mask, dtype=dtype,
                          params=params, **options)

        self.formula = formula
        self.undecided: torch.Tensor | None = None  # bool (B, H, N): these rows are not judged, nor sent a gradient
        if described.undecided is not None:
            self.undecided = described.undecided(q, k, causal=causal, scale=scale, key_mask=key_mask, **complete)
        generator = torch.Generator(q.device).manual_seed(1)
        self.grad_out = torch.randn((*q.shape[:3], v.shape[3]), generator=generator, device=q.device).to(q.dtype)
        if self.undecided is not None:
            self.grad_out = self.grad_out.masked_fill(self.undecided[..., None], 0)

    def _evaluated(self, dtype: torch.dtype, *, grad: bool, signs_H: torch.Tensor | None = None) -> Tensors:
        """Evaluates the formula, or its gradients, in `dtype`; `signs_H` are factors of each head's."""
        inputs = tuple(x.to(dtype) for x in self.inputs)
        compute = functools.partial(self.formula, dtype=dtype)
        if grad:
            grad_out = self.grad_out if signs_H is None else self.grad_out * signs_H[:, None, None]
            return gradients(compute, inputs, grad_out.to(dtype), self.names)
        with torch.no_grad():
            return {"out": compute(*inputs)}

    @functools.cached_property
    def exact(self) -> Tensors:
        return self._evaluated(torch.float64, grad=False)

    @functools.cached_property
    def exact_gradients(self) -> Tensors:
        return self._evaluated(torch.float64, grad=True)

    @functools.cached_property
    def measures(self) -> dict[str, Measure]:
        """Measures the output."""
        error = honest(lambda: self._evaluated(torch.float32, grad=False), self.exact, self.dtype, self.draws)
        return {"out": Measure(self.exact["out"], error["out"], self.dtype)}

    @functools.cached_property
    def gradient_measures(self) -> dict[str, Measure]:
        """Measures the gradients."""
        exact = self.exact_gradients
        error = honest(lambda: self._evaluated(torch.float32, grad=True), exact, self.dtype, self.draws)
        parts, size = self._parts(), max(exact[x].square().mean().sqrt().item() for x in ("dq", "dk", "dv"))
        return {x: Measure(exact[x], error[x], self.dtype, parts.get(x), size) for x in exact}

    @property
    def bounds(self) -> dict[str, float]:
        """Gives the largest bound of a row's error, by tensor."""
        return {x: measure.bound for x, measure in self.measures.items()}

    @property
    def gradient_bounds(self) -> dict[str, float]:
        return {x: measure.bound for x, measure in self.gradient_measures.items()}

    def _parts(self) -> Tensors:
        """Sizes what is rounded apart: heads that share keys may be rounded one by one before their gradients are
        summed, as PyTorch and flash-attn do. A sum in which each has a sign of its own is as large as they are, though
        they may cancel in theirs."""
        heads, kv_heads = (x.shape[1] for x in self.inputs[:2])
        if heads == kv_heads:
            return {}
        signs = 1 - 2 * (torch.arange(heads, device=self.grad_out.device) % 2)
        found = self._evaluated(torch.float32, grad=True, signs_H=signs)
        return {x: found[x] for x in ("dk", "dv")}

    def _called(self, variant: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Makes `variant` a function of q, k, v and the learned parameters."""
        masked = {} if self.key_mask is None else {"key_mask_BM": self.key_mask}

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *learned: torch.Tensor) -> torch.Tensor:
            if not learned:
                return variant(q, k, v, **masked)
            assert isinstance(variant, torch.nn.Module)
            return torch.func.functional_call(variant, dict(zip(self.learned, learned, strict=True)), (q, k, v), masked)

        return call

    def check(self, variant: Attention | Callable[..., torch.Tensor], *, grad: bool = False) -> Report:
        """Runs `variant` on the inputs and holds it against the exact values.

        Raises what the variant raises, and ValueError for a result of another shape; the report says if a result is
        wrong.
        """
        return self.judge(getattr(variant, "name", "variant"), self.found(variant, grad=grad))

    def found(self, variant: Attention | Callable[..., torch.Tensor], *, grad: bool = False) -> Tensors:
        """Runs `variant` and gives "out" and, with `grad`, "dq", "dk", "dv" and so on."""
        call = self._called(variant)
        with torch.no_grad():
            found = {"out": call(*self.inputs)}
        return found | (gradients(call, self.inputs, self.grad_out, self.names) if grad else {})

    def judge(self, name: str, found: Tensors) -> Report:
        """Holds `found`, an output, gradients or both, against the exact values."""
        report = Report(name, {}, {}, {}, {})
        for tensor, x in found.items():
            measure = (self.measures if tensor == "out" else self.gradient_measures)[tensor]
            if x.shape != measure.shape:
                raise ValueError(f"{tensor} has shape {tuple(x.shape)}, expected {tuple(measure.shape)}")
            if measure.reason:
                report.reasons[tensor] = measure.reason
            if tensor == "out" and self.undecided is not None:
                x = torch.where(self.undecided[..., None], self.exact["out"].to(x.dtype), x)
            if bad := bad_numbers(x):
                report.bad[tensor] = bad
            for kind, error, bound, place in measure.findings(x):
                key = f"{tensor} {kind}".strip()
                if key not in report.errors or not (ratio(error, bound)
                                                    <= ratio(report.errors[key], report.bounds[key])):
                    report.errors[key], report.bounds[key], report.places[key] = error, bound, place
        if self.undecided is not None:
            report.errors["undecided"], report.bounds["undecided"] = self.undecided.double().mean().item(), UNDECIDED
        return report


def _moved(initial: Tensors) -> Tensors:
    """Moves learned parameters away from where they start, by half their own size; what is added to a logit by one."""
    generator = torch.Generator().manual_seed(3)

    def moved() -> Iterator[tuple[str, torch.Tensor]]:
        for name, p in initial.items():
            x = p.detach()
            if isinstance(p, torch.nn.Parameter):
                size = 1.0 if name in LOGITS else x.square().mean().sqrt().item() / 2
                x = x + size * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            yield name, x

    return dict(moved())


def gradients(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], grad_out: torch.Tensor,
              names: tuple[str, ...] = ("q", "k", "v")) -> Tensors:
    """Gives the gradient of sum(call(*inputs) * grad_out) for each input: "dq", "dk", "dv", and so on by `names`."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = call(*leaves)
        found = torch.autograd.grad(out, leaves, grad_out.to(out.dtype), materialize_grads=True)
        return {f"d{name}": x for name, x in zip(names, found, strict=True)}


def check(variant: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grad: bool = False,
          key_mask: torch.Tensor | None = None) -> Report:
    """Holds one built variant against the rule on one set of inputs."""
    reference = Reference(variant.name.partition(":")[0], q, k, v, causal=variant.causal, scale=variant.scale,
                          key_mask=key_mask, **variant.options)
    return reference.check(variant, grad=grad)
