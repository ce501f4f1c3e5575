"""Aaren is attention as a recurrent network: each head has one learned query, and a parallel prefix scan computes its
softmax attention over every prefix of the sequence (Feng et al., Attention as an RNN, arXiv 2405.13956).

The query is a parameter, so q only gives the shape: there are N outputs, for the last N prefixes. The gradient of q is
zero. With causal=False each of the N outputs is that of the whole sequence.

A prefix is summed up by (top, total, value): the largest score, the sum of e^(score - top), and the sum of values with
these weights. Two neighbouring sums combine to one (the paper's section 3.2), so a scan can compute all. `Stream` takes
tokens one by one in constant memory.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.plain import scan
from attention.backends.product import product, wide
from attention.reference import softmax_attention
from attention.registry import register

Params = dict[str, torch.Tensor]


class Prefix(NamedTuple):
    """A prefix holds the sums of attention over some tokens, in float32 or wider."""

    top: torch.Tensor  # (B, H, ...); -inf if every token is masked
    total: torch.Tensor  # (B, H, ...)
    value: torch.Tensor  # (B, H, ..., D)

    def at(self, positions: slice) -> Prefix:
        """Selects positions."""
        return Prefix(self.top[:, :, positions], self.total[:, :, positions], self.value[:, :, positions])

    def output(self) -> torch.Tensor:
        """Gives the weighted mean of the values, zeros if every token is masked."""
        return self.value / self.total.masked_fill(self.total == 0, 1).unsqueeze(-1)


def combine(one: Prefix, other: Prefix) -> Prefix:
    """Gives the sums over the tokens of both. It is associative. No gradient flows through `top`, which cancels."""
    top = torch.maximum(one.top, other.top)
    base = top.masked_fill(top == -torch.inf, 0)
    a, b = (one.top - base).exp(), (other.top - base).exp()
    return Prefix(top, one.total * a + other.total * b,
                  one.value * a.unsqueeze(-1) + other.value * b.unsqueeze(-1))


def prefixes(tokens: Prefix) -> Prefix:
    """Scans the third dimension: each position gets the sums over all tokens up to it, its own included.

    Neighbours are combined, the pairs are scanned, and the positions in between are filled in. That takes 2 log2(n)
    steps and O(n) operations.
    """
    n = tokens.top.shape[2]
    if n == 1:
        return tokens
    odd = prefixes(combine(tokens.at(slice(0, n - 1, 2)), tokens.at(slice(1, None, 2))))
    even = combine(odd.at(slice((n - 1) // 2)), tokens.at(slice(2, None, 2)))
    return Prefix(*(_interleave(torch.cat([first[:, :, :1], x], 2), y)
                    for first, x, y in zip(tokens, even, odd, strict=True)))


def _interleave(even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
    """Takes positions 0, 2, 4 ... from `even` and the others from `odd`."""
    both = even.new_empty(*even.shape[:2], even.shape[2] + odd.shape[2], *even.shape[3:])
    both[:, :, ::2], both[:, :, 1::2] = even, odd
    return both


def tokens(query_HD: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, scale: float,
           key_mask: torch.Tensor | None = None) -> Prefix:
    """Gives the sums of each single token: (B, H, M) and (B, H, M, D)."""
    G, D = k_BGMD.shape[1], k_BGMD.shape[3]
    scores = product(query_HD.view(G, -1, D), k_BGMD.mT, scale)
    top = scores.detach()
    total = (scores - top).exp()  # it is one, and it has the gradient of the score
    if key_mask is not None:
        keep = key_mask[:, None, None, :]
        top, total = top.masked_fill(~keep, -torch.inf), total * keep
    value = total.unsqueeze(-1) * wide(v_BGMD).unsqueeze(2)
    return Prefix(top.flatten(1, 2), total.flatten(1, 2), value.flatten(1, 2))


class Stream:
    """A stream takes tokens one by one, in memory that does not grow.

    `out_BHD = stream.step(k_BGD, v_BGD)` is attention over all tokens so far. `query_HD` is `params["query_HD"]` of a
    module that `attention.create` returned.
    """

    def __init__(self, query_HD: torch.Tensor, scale: float | None = None) -> None:
        self.query_HD = query_HD
        self.scale = query_HD.shape[1] ** -0.5 if scale is None else scale
        self.state: Prefix | None = None

    def step(self, k_BGD: torch.Tensor, v_BGD: torch.Tensor) -> torch.Tensor:
        """Adds a token and gives the output over all tokens so far, (B, H, D)."""
        token = tokens(self.query_HD, k_BGD.unsqueeze(2), v_BGD.unsqueeze(2), self.scale)
        self.state = token if self.state is None else combine(self.state, token)
        return self.state.output().squeeze(2).to(v_BGD.dtype)


def parameters(*, heads: int, head_dim: int, **shape: object) -> Params:
    """Draws query_HD, one learned query for each head: standard normal with seed 0, like the queries of tokens."""
    generator = torch.Generator().manual_seed(0)
    return {"query_HD": nn.Parameter(torch.randn(heads, head_dim, generator=generator, dtype=torch.float64))}


def flops(n: int, m: int, head_dim: int, causal: bool) -> int:
    """Counts the FLOPs of one head: m scores and, causal, 2 m combinations of two products and a sum, D and 1 wide.

    Not causal, it is one row of softmax attention.
    """
    return 2 * head_dim * m + (2 * m * 3 * (head_dim + 1) if causal else 2 * head_dim * m)


@register("prefix-softmax", kind="exact", paper="arXiv 2405.13956", flops=flops, cost="n", parameters=parameters,
          flash=False, values=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, params: Params) -> torch.Tensor:
    """Computes softmax attention with the same query in every row."""
    query = params["query_HD"][:, None, :].expand(*q.shape)
    return softmax_attention(query, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


@register("prefix-softmax", backends=[eager])
def shared_query(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None, params: Params) -> torch.Tensor:
    """Asks the backend for softmax; all rows of the n x n scores are the same."""
    query = params["query_HD"][:, None, :].expand(*q.shape)
    return attend(query, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)


def scan_bytes(case: Case) -> int:
    """Predicts peak bytes: the sums of every token and head, a few times; the scan's levels together are as large."""
    wide = max(4, case.dtype.itemsize)
    return (8 if case.grad else 5) * case.heads * case.m * (case.values + 2) * wide


@register("prefix-softmax", backends=[scan], peak_bytes=scan_bytes)
def prefix_scan(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                key_mask: torch.Tensor | None, params: Params) -> torch.Tensor:
    """Scans all prefixes or, not causal, sums up the whole sequence."""
    N = q.shape[2]
    single = tokens(params["query_HD"], k, v, scale, key_mask)
    if causal:
        return prefixes(single).at(slice(-N, None)).output().to(v.dtype)
    top = single.top.amax(-1, keepdim=True)
    share = (single.top - top.masked_fill(top == -torch.inf, 0)).exp()
    whole = Prefix(top, (single.total * share).sum(-1, keepdim=True),
                   (single.value * share.unsqueeze(-1)).sum(2, keepdim=True))
    return whole.output().expand(-1, -1, N, -1).to(v.dtype)
