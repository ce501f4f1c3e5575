"""Low-rank attention without the n x n matrix: it projects as `low-rank` does and normalises as Efficient Attention
does (Shen et al., arXiv 1812.01243, equations 5 and 8).

out = ρ_q(q F) (ρ_k(k F)ᵀ v). ρ_q is a softmax over the `rank` numbers of each query, ρ_k a softmax over the keys for
each of the `rank` columns. Every output is a weighted mean of `rank` weighted means of values. q F and k F are
multiplied by sqrt(scale); with scale = 1 and the identity for F it is the paper's formula. It has no causal form, since
ρ_k uses all keys.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.fused import fused, whole
from attention.backends.plain import chunked
from attention.backends.product import product
from attention.function import Parameters
from attention.functions import low_rank
from attention.registry import register


def flops(n: int, m: int, head_dim: int, causal: bool, rank: int) -> int:
    """Counts the FLOPs of one head's forward pass: two projections, ρ_kᵀ v, and its product with ρ_q."""
    return 2 * (n + m) * head_dim * rank + 2 * (n + m) * head_dim * rank


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: q F and k F before and after the softmax, and the wider values and outputs."""
    rank, wide = dict(case.options).get("rank", low_rank.RANK), max(4, case.dtype.itemsize)
    rows, keys = case.heads * case.n, case.kv_heads * case.m
    projections = (rows + keys) * rank * (case.dtype.itemsize + 2 * wide)
    return Backend().peak_bytes(case) + (keys + rows) * case.head_dim * wide + projections * (2 if case.grad else 1)


@register("low-rank-linear", kind="approximate", paper="arXiv 1812.01243", flops=flops, cost="n", causal=False,
          options={"rank": low_rank.RANK}, validate=low_rank.validate, limits=low_rank.limits,
          parameters=low_rank.parameters,
          test_values={"rank": (16, 1, 5)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, rank: int, params: Parameters) -> torch.Tensor:
    """Computes equation 8 for each head."""
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    share = q.shape[1] // k.shape[1]
    F, k, v = (x.to(dtype).repeat_interleave(share, dim=-3) for x in (params["F"], k, v))
    q_F, k_F = root * (q.to(dtype) @ F), root * (k @ F)
    if key_mask is not None:
        blind = ~key_mask.any(-1)[:, None, None, None]
        k_F = k_F.masked_fill(~key_mask[:, None, :, None] & ~blind, -torch.inf)
        v = v.masked_fill(blind, 0)
    return q_F.softmax(-1) @ (k_F.softmax(-2).mT @ v)


def _normalise(q: torch.Tensor, k: torch.Tensor, F: torch.Tensor, scale: float,
               key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes ρ_q(q F) and ρ_k(k F) in float32 or wider; a masked key has no part in ρ_k."""
    q_F, k_F = (product(x, F.repeat_interleave(x.shape[1] // len(F), 0), scale ** 0.5) for x in (q, k))
    if key_mask is None:
        return q_F.softmax(-1), k_F.softmax(-2)
    keep = key_mask[:, None, :, None]
    return q_F.softmax(-1), k_F.masked_fill(~keep, torch.finfo(k_F.dtype).min).softmax(-2) * keep


@register("low-rank-linear", backends=[eager])
def low_rank_linear(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                    key_mask: torch.Tensor | None, rank: int, params: Parameters) -> torch.Tensor:
    """Computes the n x m matrix of weights ρ_q ρ_kᵀ, which is easy to read."""
    rho_q, rho_k = _normalise(q, k, params["F"], scale, key_mask)
    groups = (k.shape[1], q.shape[1] // k.shape[1])
    weights = rho_q.unflatten(1, groups) @ rho_k.mT.unsqueeze(2)
    return (weights @ v.to(weights.dtype).unsqueeze(2)).flatten(1, 2).to(q.dtype)


@register("low-rank-linear", backends=[chunked], peak_bytes=peak_bytes)
def by_products(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                key_mask: torch.Tensor | None, rank: int, params: Parameters) -> torch.Tensor:
    """Computes ρ_kᵀ v first, which is rank x head_dim for any length. Products have operands of the inputs' dtype."""
    rho_q, rho_k = _normalise(q, k, params["F"], scale, key_mask)
    means = product(rho_k.mT, v)
    rows = rho_q.reshape(*means.shape[:2], -1, rho_q.shape[3])  # of the heads that share keys
    return product(rows, means, dtype=v.dtype).view(*q.shape[:3], -1).to(q.dtype)


register("low-rank-linear", backends=[fused], peak_bytes=peak_bytes)(whole(by_products))
