"""Properties of every variant, as plain functions that raise AssertionError if one does not hold.

`test_variants.py` holds them against every registered variant, `test_mutants.py` against variants
broken on purpose. Each takes a `Call`: a variant, built, and one set of inputs.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import attention
from attention.testing import FLOOR, Reference, gradients, inputs

Module = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Call:
    """A kind of call: the function with its options, the shapes, the dtype, the seed."""

    function: str
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    n: int = 24
    m: int = 24
    head_dim: int = 16
    causal: bool = False
    scale: float | None = None
    dtype: torch.dtype = torch.float32
    seed: int = 0
    padded: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, backend: str, device: torch.device | str = "cpu") -> attention.Attention:
        return attention.create(f"{self.function}:{backend}", heads=self.heads, kv_heads=self.kv_heads,
                                head_dim=self.head_dim, seq_len=self.m, causal=self.causal, scale=self.scale,
                                dtype=self.dtype, device=device, **self.options)

    def why_not(self, backend: str, device: torch.device, *, grad: bool = False) -> str | None:
        return attention.why_not(f"{self.function}:{backend}", device=device, dtype=self.dtype, heads=self.heads,
                                 kv_heads=self.kv_heads, head_dim=self.head_dim, n=self.n, m=self.m,
                                 causal=self.causal, grad=grad, key_mask=self.padded, **self.options)

    def inputs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        return inputs(batch=self.batch, heads=self.heads, kv_heads=self.kv_heads, n=self.n, m=self.m,
                      head_dim=self.head_dim, dtype=self.dtype, device=device, seed=self.seed)

    def key_mask(self, device: torch.device) -> torch.Tensor | None:
        """Each sequence keeps a random part of its keys; the last sequence keeps none."""
        if not self.padded:
            return None
        keep = torch.rand(self.batch, self.m, generator=torch.Generator().manual_seed(self.seed)) > 0.5
        keep[-1] = False
        return keep.to(device)

    def run(self, module: Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mask = self.key_mask(q.device)
        with torch.no_grad():
            return module(q, k, v) if mask is None else module(q, k, v, key_mask_BM=mask)


def is_right(call: Call, module: Module, device: torch.device, *, grad: bool) -> None:
    """Output, and gradients of q, k and v, keep the error-ratio rule."""
    q, k, v = call.inputs(device)
    reference = Reference(call.function, q, k, v, causal=call.causal, scale=call.scale,
                          key_mask=call.key_mask(device), **call.options)
    report = reference.check(module, grad=grad)
    assert report.ok, report.message


def is_causal(call: Call, module: Module, device: torch.device) -> None:
    """Changing the keys and values after a position changes no output up to it."""
    q, k, v = call.inputs(device)
    before = call.run(module, q, k, v)
    last = call.m - call.n // 2  # the first key that changes: that of a query half-way
    k[:, :, last:], v[:, :, last:] = 7 - k[:, :, last:], -3 * v[:, :, last:]
    after = call.run(module, q, k, v)
    first = last - (call.m - call.n)
    assert first > 0
    assert torch.equal(before[:, :, :first], after[:, :, :first]), "the future shows"
    assert not torch.equal(before[:, :, first:], after[:, :, first:]), "the present does not show"


def keeps_sequences_and_heads_apart(call: Call, module: Module, device: torch.device) -> None:
    """Changing one key/value head of one sequence changes its own query heads there, and nothing else."""
    q, k, v = call.inputs(device)
    before = call.run(module, q, k, v)
    batch, group = 0, call.kv_heads - 1
    k[batch, group], v[batch, group] = 2 - k[batch, group], 1 - v[batch, group]
    changed = (call.run(module, q, k, v) != before).flatten(2).any(-1)
    own = torch.zeros_like(changed)
    shared = call.heads // call.kv_heads
    own[batch, group * shared:(group + 1) * shared] = True
    assert torch.equal(changed, own), f"changed: {changed.tolist()}"


def ignores_key_order(call: Call, module: Module, device: torch.device) -> None:
    """Softmax attention without a mask is the same for keys in any order, up to rounding."""
    q, k, v = call.inputs(device)
    order = torch.randperm(call.m, generator=torch.Generator().manual_seed(call.seed)).to(device)
    one, other = call.run(module, q, k, v), call.run(module, q, k[:, :, order], v[:, :, order])
    bound = 2 * Reference(call.function, q, k, v, scale=call.scale, **call.options).bounds["out"]
    assert (one.double() - other.double()).abs().max().item() <= bound


def stays_in_the_hull(call: Call, module: Module, device: torch.device) -> None:
    """Each output is a weighted mean of values, so it lies between the least and the largest."""
    q, k, v = call.inputs(device)
    out = call.run(module, q, k, v).double().unflatten(1, (call.kv_heads, -1))
    low, high = v.double().amin(2, keepdim=True), v.double().amax(2, keepdim=True)
    slack = FLOOR[call.dtype] * torch.finfo(call.dtype).eps * v.double().abs().max()
    assert (out >= low.unsqueeze(2) - slack).all()
    assert (out <= high.unsqueeze(2) + slack).all()
    ones = call.run(module, q, k, torch.ones_like(v)).double()
    assert (ones - 1).abs().max() <= slack, "the weights do not sum to one"


def stays_finite(call: Call, module: Module, device: torch.device, *, grad: bool) -> None:
    """Inputs of thirty times the usual size give numbers, and so do the gradients."""
    large = tuple(30 * x for x in call.inputs(device))
    assert call.run(module, *large).isfinite().all(), f"the output is not finite in {call.dtype}"
    if grad:
        for name, x in gradients(module, large, torch.ones_like(large[0])).items():
            assert x.isfinite().all(), f"{name} is not finite in {call.dtype}"


def gives_zeros_where_nothing_is_seen(call: Call, module: Module, device: torch.device, *, grad: bool) -> None:
    """Causal queries that stand before the first key, n > m, give zeros and pass no gradient."""
    q, k, v = call.inputs(device)
    blind = call.n - call.m
    assert blind > 0
    assert call.causal
    out = call.run(module, q, k, v)
    assert (out[:, :, :blind] == 0).all()
    assert (out[:, :, blind:] != 0).any(-1).all()
    if grad:
        dq = gradients(module, (q, k, v), torch.ones_like(q))["dq"]
        assert (dq[:, :, :blind] == 0).all()


def repeats_itself(call: Call, module: Module, device: torch.device) -> None:
    """The same input twice gives the same output to the last bit."""
    q, k, v = call.inputs(device)
    assert torch.equal(call.run(module, q, k, v), call.run(module, q, k, v))


def takes_any_strides(call: Call, module: Module, device: torch.device) -> None:
    """Inputs laid out (B, N, H, D), as models hand them over, give what contiguous ones give."""
    q, k, v = call.inputs(device)
    strided = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    bound = 2 * Reference(call.function, q, k, v, causal=call.causal, **call.options).bounds["out"]
    difference = (call.run(module, *strided).double() - call.run(module, q, k, v).double()).abs().max().item()
    assert difference <= bound
