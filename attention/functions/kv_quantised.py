"""Softmax attention on a key/value cache of few bits (asymmetric, as in Liu et al., KIVI, arXiv 2402.02750).

The keys and values of a token are cut into groups of `group` channels, each with a scale of its own. A group of numbers
x is stored as lo = min x, step = (max x - lo) / (2^bits - 1), computed in float64, and the codes
round((x - lo) / step), halves to even. lo is exact, since it is one of x; step is in float32. Attention uses
lo + code step. KIVI groups keys along tokens. Here no group spans two tokens, so no token changes another.

With `stairs` s > 0 precision falls with age, counted from the last key, as in Li's staircase (arXiv 2410.18441): the
newest s tokens stay as they are, the s before them have 8 bits, all others `bits`. Rounding has no gradient: gradients
pass straight through it, as if the rounded numbers were the inputs (Bengio et al., arXiv 1308.3432).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from attention import masks
from attention.backends.compiling import compiled_on_gpu
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.function import require_whole
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool, bits: int, group: int, stairs: int) -> int:
    """Counts the visible query-key pairs of one head."""
    return all_pairs(n, m, causal)


def validate(bits: int, group: int, stairs: int) -> None:
    """Raises ValueError for bits other than 4 and 8, and for numbers that can't be."""
    if bits not in (4, 8) or not isinstance(bits, int):
        raise ValueError(f"kv-quantised: bits={bits!r} must be 4 or 8")
    require_whole("kv-quantised", group=group)
    require_whole("kv-quantised", least=0, stairs=stairs)


@register("kv-quantised", kind="structured", paper="arXiv 2402.02750", pairs=pairs, validate=validate,
          options={"bits": 4, "group": 64, "stairs": 0}, convex=False, values=True,
          test_values={"bits": (4, 8), "group": (16, 1, 64), "stairs": (7, 0, 5, 64)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, bits: int, group: int, stairs: int) -> torch.Tensor:
    """Rounds keys and values group by group and computes softmax attention on them."""
    m = k.shape[2]
    age = m - 1 - torch.arange(m, device=k.device)[:, None]

    def round_groups(x: torch.Tensor, bits: int) -> torch.Tensor:
        groups = []
        for part in x.detach().double().split(group, -1):
            lo, hi = part.amin(-1, keepdim=True), part.amax(-1, keepdim=True)
            step = (hi - lo) / (2 ** bits - 1)
            code = torch.round((part - lo) / torch.where(step > 0, step, 1))
            groups.append(lo + code * step)
        return torch.cat(groups, -1).to(dtype)

    def round_by_age(x: torch.Tensor) -> torch.Tensor:
        x = x.to(dtype)
        old = torch.where(age < 2 * stairs, round_groups(x, 8), round_groups(x, bits))
        return torch.where(age < stairs, x.detach(), old) + (x - x.detach())

    return softmax_attention(q, round_by_age(k), round_by_age(v), scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


class Packed:
    """Stores x (..., D) in 4 or 8 bits: codes, two in a byte if they have 4 bits, and lo and step of each group."""

    def __init__(self, x: torch.Tensor, bits: int, group: int) -> None:
        self.bits, self.group, self.width = bits, group, x.shape[-1]
        groups = self._split(x.detach()).double()
        lo, hi = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (hi - lo) / (2 ** bits - 1)
        codes = ((groups - lo) / step.masked_fill(step == 0, 1)).round().to(torch.uint8)
        codes = codes.flatten(-2)[..., :self.width]
        if bits == 4:
            low, high = F.pad(codes, (0, self.width % 2)).unflatten(-1, (-1, 2)).unbind(-1)
            codes = low | high << 4
        self.codes, self.lo = codes, lo.to(x.dtype)
        self.step = step.to(torch.promote_types(x.dtype, torch.float32))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Splits channels into (..., groups, group); a short last group repeats its last channel, so lo and hi stay."""
        last = x[..., -1:].expand(*x.shape[:-1], -self.width % self.group)
        return torch.cat([x, last], -1).unflatten(-1, (-1, self.group))

    @property
    def nbytes(self) -> int:
        """The bytes of what is stored."""
        return sum(x.numel() * x.element_size() for x in (self.codes, self.lo, self.step))

    def unpack(self) -> torch.Tensor:
        """Gives lo + code step, (..., D) in the dtype of x."""
        codes = self.codes
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[..., :self.width]
        x = self.lo.to(self.step.dtype) + self._split(codes).to(self.step.dtype) * self.step
        return x.flatten(-2)[..., :self.width].to(self.lo.dtype)


class Cache:
    """Stores keys or values (B, G, M, D) as the function says, oldest first."""

    def __init__(self, x_BGMD: torch.Tensor, bits: int, group: int, stairs: int) -> None:
        newest, middle = (max(0, x_BGMD.shape[2] - s) for s in (stairs, 2 * stairs))
        self.old = Packed(x_BGMD[:, :, :middle], bits, group)
        self.middle = Packed(x_BGMD[:, :, middle:newest], 8, group)
        self.newest = x_BGMD[:, :, newest:].detach()

    @property
    def nbytes(self) -> int:
        """The bytes of what is stored."""
        return self.old.nbytes + self.middle.nbytes + self.newest.numel() * self.newest.element_size()

    def unpack(self) -> torch.Tensor:
        """Gives the keys or values that attention uses, (B, G, M, D)."""
        return torch.cat([self.old.unpack(), self.middle.unpack(), self.newest], 2)


@compiled_on_gpu
def pack_and_unpack(x_BGMD: torch.Tensor, bits: int, group: int, stairs: int) -> torch.Tensor:
    """Gives the numbers that a cache of keys or values gives back, (B, G, M, D). Gradients pass straight through."""
    return Cache(x_BGMD, bits, group, stairs).unpack() + (x_BGMD - x_BGMD.detach())


@register("kv-quantised", backends=[eager, sdpa, fa2, fa3, fa4, flex])
def kv_quantised(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None, bits: int, group: int, stairs: int) -> torch.Tensor:
    """Packs, unpacks and attends. It gives the numbers of a packed cache, but not its speed."""
    k, v = (pack_and_unpack(x, bits, group, stairs) for x in (k, v))
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)
