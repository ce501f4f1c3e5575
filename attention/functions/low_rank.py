"""Low-rank attention computes softmax(scale (q F)(k F)ᵀ) v with a learned F of `rank` columns.

The softmax is still over n x n scores: a rank below head_dim saves part of one product, and the cost stays quadratic.
`low-rank-linear` is the version without that matrix. F is (key/value heads, head_dim, rank) and starts with orthonormal
columns, so with rank = head_dim it starts as softmax attention.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.sdpa import sdpa
from attention.function import Parameters, require_whole
from attention.functions import softmax
from attention.reference import softmax_attention
from attention.registry import register

RANK = 32


def validate(rank: int) -> None:
    """Raises ValueError unless `rank` is a whole number of at least 1."""
    require_whole("low-rank", rank=rank)


def limits(case: Case) -> str | None:
    """Refuses a rank above head_dim."""
    rank = dict(case.options).get("rank", RANK)
    return f"rank={rank} must be at most head_dim={case.head_dim}" if rank > case.head_dim else None


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool,
               rank: int) -> Parameters:
    """Builds F, (G, D, rank), with orthonormal columns. Raises ValueError for a rank above head_dim."""
    if rank > head_dim:
        raise ValueError(f"low-rank: rank={rank} must be at most head_dim={head_dim}")
    normal = torch.randn(kv_heads, head_dim, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"F": nn.Parameter(torch.linalg.qr(normal).Q)}


def project(x: torch.Tensor, F: torch.Tensor) -> torch.Tensor:
    """Multiplies x (B, H, N, D) by F (G, D, rank), by that of each head's key/value head -> (B, H, N, rank)."""
    return x @ F.repeat_interleave(x.shape[1] // F.shape[0], dim=0)


def flops(n: int, m: int, head_dim: int, causal: bool, rank: int) -> int:
    """Counts the FLOPs of one head's forward pass: two projections, then scores and values for each visible pair."""
    return 2 * (n + m) * head_dim * rank + 2 * (rank + head_dim) * softmax.pairs(n, m, causal)


@register("low-rank", kind="approximate", paper="cf. arXiv 2006.04768", flops=flops, cost="n²", options={"rank": RANK},
          validate=validate, limits=limits, parameters=parameters,
          test_values={"rank": (16, 1, 5)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, rank: int, params: Parameters) -> torch.Tensor:
    """Computes softmax attention of q F and k F, with the scale of q and k."""
    F = params["F"]
    query_F = F.repeat_interleave(q.shape[1] // F.shape[0], dim=0)
    return softmax_attention(q.to(dtype) @ query_F, k.to(dtype) @ F, v, key_mask=key_mask, dtype=dtype,
                             scale=q.shape[-1] ** -0.5 if scale is None else scale,
                             visible=(lambda i, j: j <= i) if causal else None)


@register("low-rank", backends=[eager, sdpa])
def low_rank(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: torch.Tensor | None, rank: int, params: Parameters) -> torch.Tensor:
    """Projects q and k and asks the backend for softmax."""
    F = params["F"]
    return attend(project(q, F), project(k, F), v, scale=scale, band=masks.band(causal), key_mask=key_mask)
