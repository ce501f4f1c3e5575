"""Softmax attention on a key/value cache of few bits (asymmetric, as in Liu et al., KIVI, arXiv 2402.02750).

Each token's keys and values are cut into groups of `group` channels, each with a scale of its own. Of a group of
numbers x are kept lo = min x, step = (max x - lo) / (2^bits - 1), worked out in float64, and the codes
round((x - lo) / step), halves to even; lo is exact, being one of x, and step is kept in float32. The attention sees
lo + code step. KIVI groups keys along tokens; here a token is a group of its own, so no token shows in another.

With `stairs` s > 0 precision falls with age, counted from the last key, as in Li's staircase (arXiv 2410.18441): the
newest s tokens stay as they are, the s before them have 8 bits, all others `bits`. Rounding has no gradient:
gradients pass straight through it, as if the rounded numbers were the inputs (Bengio et al., arXiv 1308.3432).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from attention import masks
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool, bits: int, group: int, stairs: int) -> int:
    """Visible query-key pairs of one head."""
    return all_pairs(n, m, causal)


def validate(bits: int, group: int, stairs: int) -> None:
    """Raises ValueError for bits other than 4 and 8, and for numbers that can't be."""
    if bits not in (4, 8) or not isinstance(bits, int):
        raise ValueError(f"kv-quantised: bits={bits!r} must be 4 or 8")
    for name, value, least in (("group", group, 1), ("stairs", stairs, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"kv-quantised: {name}={value!r} must be a whole number >= {least}")


@register("kv-quantised", kind="structured", paper="arXiv 2402.02750", pairs=pairs, validate=validate,
          options={"bits": 4, "group": 64, "stairs": 0}, convex=False, values=True,
          test_values={"bits": (4, 8), "group": (16, 1, 64), "stairs": (7, 0, 5, 64)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, bits: int, group: int, stairs: int) -> torch.Tensor:
    """Softmax attention on keys and values that have been rounded, group by group."""
    m = k.shape[2]
    age = m - 1 - torch.arange(m, device=k.device)[:, None]

    def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
        groups = []
        for part in x.detach().split(group, -1):
            lo, hi = part.amin(-1, keepdim=True), part.amax(-1, keepdim=True)
            step = (hi - lo) / (2 ** bits - 1)
            code = torch.round((part - lo) / torch.where(step > 0, step, 1))
            groups.append(lo + code * step)
        return torch.cat(groups, -1)

    def kept(x: torch.Tensor) -> torch.Tensor:
        x = x.to(dtype)
        stair = torch.where(age < stairs, x.detach(), torch.where(age < 2 * stairs, rounded(x, 8), rounded(x, bits)))
        return stair + (x - x.detach())

    return softmax_attention(q, kept(k), kept(v), scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


class Packed:
    """x (..., D) in 4 or 8 bits: codes, two a byte where they have 4, and lo and step of each group."""

    def __init__(self, x: torch.Tensor, bits: int, group: int) -> None:
        self.bits, self.group, self.width = bits, group, x.shape[-1]
        groups = self._grouped(x.detach()).double()
        lo, hi = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (hi - lo) / (2 ** bits - 1)
        codes = ((groups - lo) / step.masked_fill(step == 0, 1)).round().to(torch.uint8)
        codes = codes.flatten(-2)[..., :self.width]
        if bits == 4:
            low, high = F.pad(codes, (0, self.width % 2)).unflatten(-1, (-1, 2)).unbind(-1)
            codes = low | high << 4
        self.codes, self.lo = codes, lo.to(x.dtype)
        self.step = step.to(torch.promote_types(x.dtype, torch.float32))

    def _grouped(self, x: torch.Tensor) -> torch.Tensor:
        """(..., groups, group); a last group that is short repeats its last channel, which moves no extreme."""
        last = x[..., -1:].expand(*x.shape[:-1], -self.width % self.group)
        return torch.cat([x, last], -1).unflatten(-1, (-1, self.group))

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.codes, self.lo, self.step))

    def unpacked(self) -> torch.Tensor:
        """What is kept of x, in its dtype."""
        codes = self.codes
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[..., :self.width]
        x = self.lo.to(self.step.dtype) + self._grouped(codes).to(self.step.dtype) * self.step
        return x.flatten(-2)[..., :self.width].to(self.lo.dtype)


class Cache:
    """Keys or values (B, G, M, D) as the function keeps them, oldest first."""

    def __init__(self, x_BGMD: torch.Tensor, bits: int, group: int, stairs: int) -> None:
        newest, middle = (max(0, x_BGMD.shape[2] - s) for s in (stairs, 2 * stairs))
        self.old = Packed(x_BGMD[:, :, :middle], bits, group)
        self.middle = Packed(x_BGMD[:, :, middle:newest], 8, group)
        self.newest = x_BGMD[:, :, newest:].detach()

    @property
    def nbytes(self) -> int:
        return self.old.nbytes + self.middle.nbytes + self.newest.numel() * self.newest.element_size()

    def unpacked(self) -> torch.Tensor:
        return torch.cat([self.old.unpacked(), self.middle.unpacked(), self.newest], 2)


@register("kv-quantised", backends=[eager, sdpa, fa2, flex])
def kv_quantised(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None, bits: int, group: int, stairs: int) -> torch.Tensor:
    """Packs, unpacks and attends: the numbers of a packed cache, not yet its speed."""
    k, v = (Cache(x, bits, group, stairs).unpacked() + (x - x.detach()) for x in (k, v))  # straight through
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)
