"""Decoding is softmax attention of the newest few queries on a cache of keys and values, which may lie in pages
(Shazeer, One Write-Head is All You Need, arXiv 1911.02150; Kwon et al., PagedAttention, arXiv 2309.06180).

The formula is that of softmax. Its kernels differ: they split the cache instead of the queries, and the cache has
another layout. The function takes up to 16 queries, as many as speculative decoding checks at once.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.fa2 import kvcache, paged
from attention.backends.fa3 import fa3_decode, fa3_paged
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.functions.softmax import pairs
from attention.reference import softmax_attention
from attention.registry import register

QUERIES = 16


def limits(case: Case) -> str | None:
    """Refuses more than 16 queries, and more queries than keys."""
    if case.n > min(QUERIES, case.m):
        return f"n={case.n} queries on m={case.m} keys: decoding takes 1 to {QUERIES}, and no more than keys"
    return None


@register("decode", kind="exact", paper="arXiv 1911.02150", pairs=pairs, limits=limits, cost="m", values=True,
          queries=1)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Computes softmax attention on every key or, causal, on the keys up to the query's own."""
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


@register("decode", backends=[eager, sdpa, kvcache, paged, fa3_decode, fa3_paged, flex])
def decode(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None) -> torch.Tensor:
    """Asks the backend for softmax of few queries on many keys."""
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)
