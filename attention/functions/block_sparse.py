"""Block-sparse attention: local, global and random blocks of keys in one mask (Zaheer et al., BigBird,
arXiv 2007.14062; Beltagy et al., Longformer, arXiv 2004.05150; Child et al., Sparse Transformers, arXiv 1904.10509).

Positions are cut into blocks of `block`. A query in block r sees the keys of
 - the `local` blocks on either side of its own, and its own;
 - the `first` blocks of all; whose queries see every key, as do those of the `last` blocks, which every query sees;
 - `random` blocks more, drawn by `seed`, the same for every head;
 - with a `stride` s, every s-th block counted from its own (Sparse Transformers' strided pattern).
Causal, no key after the query is seen, random blocks are drawn among those before, and there are no `last` blocks: a
row is then the same however many keys follow. Options left None are the preset's. Cost grows with n for the presets
bigbird and longformer, with n² / stride for strided (the paper takes stride = sqrt(n), n sqrt(n) in all).
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
from attention.backends.plain import chunked
from attention.backends.sdpa import sdpa
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
    for name, value, least in (("block", block, 1), ("seed", seed, 0), *((x, counts[x], 0) for x in counts)):
        if (value is not None or name in ("block", "seed")) and (not isinstance(value, int) or value < least):
            raise ValueError(f"block-sparse: {name}={value!r} must be a whole number >= {least}")


@dataclass(frozen=True)
class Pattern:
    """Which blocks of keys the queries of a block see: the options, the preset's where they are None."""

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
        told = {**PRESETS[preset], **{x: count for x, count in counts.items() if count is not None}}
        if causal:
            told["last"] = 0
        return Pattern(block=block, seed=seed, causal=causal, **told)

    def layout(self, blocks: int) -> torch.Tensor:
        """Bool (blocks, blocks), on the CPU: row sees column."""
        r, c = torch.arange(blocks)[:, None], torch.arange(blocks)
        seen = (r - c).abs() <= self.local
        if self.stride:
            seen |= (r - c) % self.stride == 0
        edge = (c < self.first) | (c >= blocks - self.last)
        seen |= edge | (edge[:, None] if not self.causal else False)
        able = ~seen & (c < r if self.causal else True)
        order = priority(blocks, self.seed).masked_fill(~able, torch.iinfo(torch.int64).max)
        drawn = order.argsort(-1)[:, :self.random]
        seen |= torch.zeros_like(seen).scatter(1, drawn, True) & able
        return seen & (c <= r) if self.causal else seen


def priority(blocks: int, seed: int) -> torch.Tensor:
    """A number (blocks, blocks) for each pair that decides which are drawn first: the same for any `blocks`.

    The finaliser of splitmix64, on whole numbers that wrap.
    """
    r, c = torch.arange(blocks)[:, None], torch.arange(blocks)
    x = (r + 1) * 0x1E3779B97F4A7C15 + (c + 1) * 0x3F58476D1CE4E5B9 + seed % 2 ** 32 * 0xD049BB1
    for multiplier in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
        x = (x ^ (x >> 29)) * multiplier
    return (x ^ (x >> 32)) & (2 ** 62 - 1)


def pairs(n: int, m: int, causal: bool, **options: Any) -> int:
    """Visible query-key pairs of one head."""
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
    """Softmax attention over the keys of the blocks that each query sees, row by row as told above."""
    told = {**PRESETS[preset], **{x: count for x, count in counts.items() if count is not None}}
    local, first, last, random, stride = (told[x] for x in ("local", "first", "last", "random", "stride"))
    blocks = -(-k.shape[2] // block)
    drawn_first = priority(blocks, seed)
    rows = []
    for r in range(blocks):
        row = {c for c in range(blocks) if abs(r - c) <= local or c < first or (stride and (r - c) % stride == 0)}
        if not causal:
            row |= set(range(blocks - last, blocks) if r in range(first, blocks - last) else range(blocks))
        others = [c for c in range(r if causal else blocks) if c not in row]
        row |= set(sorted(others, key=drawn_first[r].tolist().__getitem__)[:random])
        rows.append([c in row for c in range(blocks)])
    seen = torch.tensor(rows, device=q.device)

    def visible(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        in_block = seen[(i // block).clamp_min(0), j // block]  # queries before the first key count to block 0
        return in_block & (j <= i) if causal else in_block

    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, visible=visible)


class Visible:
    """visible(h, i, j) of a layout that all heads share."""

    by_head = False

    def __init__(self, pattern: Pattern, blocks: int, device: torch.device) -> None:
        self.block, self.layout = pattern.block, pattern.layout(blocks).to(device)

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return self.layout[(i // self.block).clamp_min(0), j // self.block]


_visible = functools.lru_cache(maxsize=32)(Visible)  # backends keep the masks they make of one, known by its identity


@register("block-sparse", backends=[eager, sdpa, flex])
def masked(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None, **options: Any) -> torch.Tensor:
    """Under the mask; flex skips its own blocks of 128 that are empty."""
    pattern = Pattern.of(causal, **options)
    build = Visible if torch.compiler.is_compiling() else _visible  # dynamo traces no cache
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask,
                  visible=build(pattern, -(-k.shape[2] // pattern.block), q.device))


@functools.lru_cache(maxsize=32)
def _plan(pattern: Pattern, m: int, start: int, stop: int, device: torch.device) -> _gathered.Plan:
    blocks = -(-m // pattern.block)
    c = torch.arange(blocks)
    edge = (c < pattern.first) | (c >= blocks - pattern.last)
    return _gathered.Plan(pattern.layout(blocks), edge, pattern.block, pattern.causal, m, start, stop, device)


def gathered_bytes(case: Case) -> int:
    """The rows of scores over gathered and global keys, the gathered keys and values, and the global rows' scores."""
    pattern = Pattern.of(case.causal, **{**OPTIONS, **dict(case.options)})
    blocks = -(-case.m // pattern.block)
    width = 2 * pattern.local + 1 + pattern.random + (2 * blocks // pattern.stride if pattern.stride else 0)
    edge = min(case.m, (pattern.first + pattern.last) * pattern.block)
    seen = min(case.m, width * pattern.block) + edge
    wide = max(4, case.dtype.itemsize)
    scores = case.heads * (case.n * seen + edge * case.m) * (2 * case.dtype.itemsize + wide)
    gathered = case.kv_heads * case.n * min(blocks, width) * (case.head_dim + case.values)
    return chunked.peak_bytes(case) + scores + gathered * (case.dtype.itemsize + (wide if case.grad else 0))


@register("block-sparse", backends=[chunked], peak_bytes=gathered_bytes)
def gathered(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: torch.Tensor | None, **options: Any) -> torch.Tensor:
    """Each block of queries on the blocks it sees, gathered, and on the global keys; global queries on all keys."""
    pattern = Pattern.of(causal, **options)
    n, m, block = q.shape[2], k.shape[2], pattern.block
    ahead, behind = 0, n  # the queries between see blocks, those before and after see all
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
