"""Block-sparse attention has local, global and random blocks of keys in one mask (Zaheer et al., BigBird,
arXiv 2007.14062; Beltagy et al., Longformer, arXiv 2004.05150; Child et al., Sparse Transformers, arXiv 1904.10509).

Positions are cut into blocks of `block`. A query in block r sees the keys of
 - its own block and the `local` blocks on either side;
 - the `first` blocks and the `last` blocks of the sequence, whose queries in turn see every key;
 - `random` more blocks, which `seed` chooses, the same for every head;
 - with a `stride` s, every s-th block counted from its own (the strided pattern of Sparse Transformers).
Causal attention sees no key after the query, chooses random blocks before it, and has no `last` blocks, so a row does
not depend on how many keys follow. An option that is None has the preset's value. Cost grows with n for the presets
bigbird and longformer, and with n² / stride for strided (in the paper stride = sqrt(n), so n sqrt(n)).
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import attend as eager_attend
from attention.backends.eager import eager
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.plain import chunked
from attention.backends.sdpa import sdpa
from attention.function import require_whole
from attention.functions import _gathered
from attention.reference import softmax_attention
from attention.registry import register

PRESETS = {
    "bigbird": {"local": 1, "first": 1, "last": 1, "random": 3, "stride": 0},
    "longformer": {"local": 4, "first": 1, "last": 0, "random": 0, "stride": 0},  # 256 keys on either side
    "strided": {"local": 7, "first": 0, "last": 0, "random": 0, "stride": 8},
}
OPTIONS = {"preset": "bigbird", "block": 64, "local": None, "first": None, "last": None, "random": None,
           "stride": None, "seed": 0}


def validate(preset: str, block: int, seed: int, **counts: int | None) -> None:
    """Raises ValueError for an unknown preset and for numbers that can't be."""
    if preset not in PRESETS:
        raise ValueError(f"block-sparse: preset={preset!r} must be one of {', '.join(PRESETS)}")
    require_whole("block-sparse", block=block)
    require_whole("block-sparse", least=0, seed=seed, **{x: n for x, n in counts.items() if n is not None})


@dataclass(frozen=True)
class Pattern:
    """A pattern says which blocks of keys the queries of a block see, in numbers: the preset's or the options'."""

    block: int
    local: int
    first: int
    last: int
    random: int
    stride: int
    seed: int
    causal: bool

    @staticmethod
    def of(causal: bool, *, preset: str, block: int, seed: int, **counts: int | None) -> Pattern:
        """Builds the pattern of these options."""
        numbers = {**PRESETS[preset], **{x: count for x, count in counts.items() if count is not None}}
        if causal:
            numbers["last"] = 0
        return Pattern(block=block, seed=seed, causal=causal, **numbers)

    def layout(self, blocks: int) -> torch.Tensor:
        """Builds the mask of blocks, bool (blocks, blocks) on the CPU: True where the row's block sees the column's."""
        r, c = torch.arange(blocks)[:, None], torch.arange(blocks)
        mask = (r - c).abs() <= self.local
        if self.stride:
            mask |= (r - c) % self.stride == 0
        edge = (c < self.first) | (c >= blocks - self.last)
        mask |= edge | (edge[:, None] if not self.causal else False)
        candidates = ~mask & (c < r if self.causal else True)
        order = priority(blocks, self.seed).masked_fill(~candidates, torch.iinfo(torch.int64).max)
        choice = order.argsort(-1)[:, :self.random]
        mask |= torch.zeros_like(mask).scatter(1, choice, True) & candidates
        return mask & (c <= r) if self.causal else mask


def priority(blocks: int, seed: int) -> torch.Tensor:
    """Gives each pair of blocks a number, (blocks, blocks); the lowest are chosen first.

    The number of a pair is the same for any `blocks`: the finaliser of splitmix64, on whole numbers that wrap.
    """
    r, c = torch.arange(blocks)[:, None], torch.arange(blocks)
    x = (r + 1) * 0x1E3779B97F4A7C15 + (c + 1) * 0x3F58476D1CE4E5B9 + seed % 2 ** 32 * 0xD049BB1
    for multiplier in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
        x = (x ^ (x >> 29)) * multiplier
    return (x ^ (x >> 32)) & (2 ** 62 - 1)


def pairs(n: int, m: int, causal: bool, **options: Any) -> int:
    """Counts the visible query-key pairs of one head."""
    pattern = Pattern.of(causal, **options)
    blocks = -(-m // pattern.block)
    layout = pattern.layout(blocks)
    sizes = torch.full((blocks,), pattern.block)
    sizes[-1] = m - (blocks - 1) * pattern.block
    i = torch.arange(m - n, m)
    i = i[i >= 0] if causal else i
    row = (i // pattern.block).clamp_min(0)
    if not causal:
        return int((layout * sizes).sum(-1)[row].sum())
    before = (layout.tril(-1) * sizes).sum(-1)
    return int((before[row] + i % pattern.block + 1).sum())


@register("block-sparse", kind="structured", paper="arXiv 2007.14062", pairs=pairs, cost="n", options=OPTIONS,
          validate=validate, values=True,
          test_values={"preset": tuple(PRESETS), "block": (8, 1, 7, 16, 64), "local": (None, 0, 2, 300),
                       "first": (None, 0, 2), "random": (1, None, 0, 2), "stride": (None, 0, 3), "seed": (0, 1)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, preset: str, block: int, seed: int,
           **counts: int | None) -> torch.Tensor:
    """Lists the visible blocks row by row, as described above, and computes softmax attention over their keys."""
    numbers = {**PRESETS[preset], **{x: count for x, count in counts.items() if count is not None}}
    local, first, last, random, stride = (numbers[x] for x in ("local", "first", "last", "random", "stride"))
    blocks = -(-k.shape[2] // block)
    rank = priority(blocks, seed)
    rows = []
    for r in range(blocks):
        row = {c for c in range(blocks) if abs(r - c) <= local or c < first or (stride and (r - c) % stride == 0)}
        if not causal:
            row |= set(range(blocks - last, blocks) if r in range(first, blocks - last) else range(blocks))
        others = [c for c in range(r if causal else blocks) if c not in row]
        row |= set(sorted(others, key=rank[r].tolist().__getitem__)[:random])
        rows.append([c in row for c in range(blocks)])
    layout = torch.tensor(rows, device=q.device)

    def visible(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        in_block = layout[(i // block).clamp_min(0), j // block]  # queries before the first key count to block 0
        return in_block & (j <= i) if causal else in_block

    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, visible=visible)


class Visible:
    """The mask `visible(h, i, j)` of a layout that all heads share."""

    by_head = False

    def __init__(self, pattern: Pattern, blocks: int, device: torch.device) -> None:
        self.block, self.layout = pattern.block, pattern.layout(blocks).to(device)

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return self.layout[(i // self.block).clamp_min(0), j // self.block]


# Backends store the mask that they make of a `Visible`, and find it again by the identity of the object.
_visible = functools.lru_cache(maxsize=32)(Visible)


@register("block-sparse", backends=[eager, sdpa, flex, flex_fa4])
def block_sparse(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None, **options: Any) -> torch.Tensor:
    """Computes softmax under the mask; flex skips its own blocks of 128 that are empty."""
    pattern = Pattern.of(causal, **options)
    build = Visible if torch.compiler.is_compiling() else _visible  # dynamo can't trace a cache
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask,
                  visible=build(pattern, -(-k.shape[2] // pattern.block), q.device))


@functools.lru_cache(maxsize=32)
def _plan(pattern: Pattern, m: int, start: int, stop: int, device: torch.device) -> _gathered.Plan:
    blocks = -(-m // pattern.block)
    c = torch.arange(blocks)
    edge = (c < pattern.first) | (c >= blocks - pattern.last)
    return _gathered.Plan(pattern.layout(blocks), edge, pattern.block, pattern.causal, m, start, stop, device)


def gathered_bytes(case: Case) -> int:
    """Predicts peak bytes: scores on gathered and global keys, gathered keys and values, scores of global queries."""
    pattern = Pattern.of(case.causal, **{**OPTIONS, **dict(case.options)})
    blocks = -(-case.m // pattern.block)
    width = 2 * pattern.local + 1 + pattern.random + (2 * blocks // pattern.stride if pattern.stride else 0)
    edge = min(case.m, (pattern.first + pattern.last) * pattern.block)
    keys = min(case.m, width * pattern.block) + edge
    wide = max(4, case.dtype.itemsize)
    scores = case.heads * (case.n * keys + edge * case.m) * (2 * case.dtype.itemsize + wide)
    copies = case.kv_heads * case.n * min(blocks, width) * (case.head_dim + case.values)
    return chunked.peak_bytes(case) + scores + copies * (case.dtype.itemsize + (wide if case.grad else 0))


@register("block-sparse", backends=[chunked], peak_bytes=gathered_bytes)
def by_blocks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, **options: Any) -> torch.Tensor:
    """Gathers for each block of queries the blocks it sees and adds the global keys; global queries see all keys."""
    pattern = Pattern.of(causal, **options)
    n, m, block = q.shape[2], k.shape[2], pattern.block
    ahead, behind = 0, n  # queries before `ahead` and from `behind` on see every key, the others see blocks
    if not causal:
        ahead = min(n, max(0, pattern.first * block - (m - n))) if pattern.first else 0
        behind = min(n, max(ahead, (-(-m // block) - pattern.last) * block - (m - n)))
    parts = [eager_attend(q[:, :, :ahead], k, v, scale=scale, key_mask=key_mask)] if ahead else []
    if ahead < behind:
        plan = _plan(pattern, m, m - n + ahead, m - n + behind, q.device)
        parts.append(_gathered.attend(plan, q[:, :, ahead:behind], k, v, scale, key_mask))
    if behind < n:
        parts.append(eager_attend(q[:, :, behind:], k, v, scale=scale, key_mask=key_mask))
    return torch.cat(parts, 2)
