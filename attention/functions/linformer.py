"""Linformer projects keys and values along the sequence from n to a rank (Wang et al., arXiv 2006.04768, equation 7).

out = softmax(scale q (E k)ᵀ) F v with learned E and F (rank x n). It is not causal and takes sequences up to the length
that it was built for; a shorter one uses the first columns. A padded key counts as zeros in E k and F v.

`share` is that of the paper's section 4: with "none" every key/value head has an E and an F, with "headwise" all heads
have one E and one F, with "key-value" E = F for all. They start uniform within ±sqrt(6 / (rank + n)) (Xavier).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.sdpa import sdpa
from attention.function import Parameters, require_whole
from attention.reference import softmax_attention
from attention.registry import register

RANK = 256
SHARES = ("none", "headwise", "key-value")


def validate(rank: int, share: str) -> None:
    """Raises ValueError unless `rank` is a whole number of at least 1 and `share` is one of `SHARES`."""
    require_whole("linformer", rank=rank)
    if share not in SHARES:
        raise ValueError(f"linformer: share={share!r} must be one of {', '.join(SHARES)}")


def limits(case: Case) -> str | None:
    """Refuses a rank above the number of keys."""
    rank = dict(case.options).get("rank", RANK)
    return f"rank={rank} must be at most the {case.m} keys" if rank > case.m else None


def few(options: dict, m: int) -> dict:
    """Lowers the rank to the number of a probe's keys."""
    return {**options, "rank": min(options["rank"], m)}


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, rank: int,
               share: str) -> Parameters:
    """Builds E and, unless it is shared, F: (key/value heads or 1, rank, seq_len).

    Raises ValueError without seq_len, or for one below the rank.
    """
    if seq_len is None or seq_len < rank:
        raise ValueError(f"linformer: seq_len={seq_len} must be the longest sequence's length, at least rank={rank}")
    generator = torch.Generator().manual_seed(0)
    bound = (6 / (rank + seq_len)) ** 0.5
    shape = (kv_heads if share == "none" else 1, rank, seq_len)
    return {name: nn.Parameter(bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1))
            for name in ("E" if share == "key-value" else "EF")}


def flops(n: int, m: int, head_dim: int, causal: bool, rank: int, share: str) -> int:
    """Counts the FLOPs of one head's forward pass: two projections along the keys, then attention on `rank` keys."""
    return 4 * rank * m * head_dim + 4 * n * rank * head_dim


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: n x rank scores and, with a key mask, copies of k and v."""
    rank, wide = dict(case.options).get("rank", RANK), max(4, case.dtype.itemsize)
    scores = case.heads * case.n * rank * (2 * case.dtype.itemsize + wide)
    copies = 2 * case.kv_heads * case.m * case.head_dim * case.dtype.itemsize if case.key_mask else 0
    return Backend().peak_bytes(case) + copies + scores * (2 if case.grad else 1)


@register("linformer", kind="approximate", paper="arXiv 2006.04768", flops=flops, cost="n", causal=False, convex=False,
          options={"rank": RANK, "share": "headwise"}, validate=validate, limits=limits, few=few, parameters=parameters,
          test_values={"rank": (16, 2, 5), "share": ("headwise", "none", "key-value")})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, rank: int, share: str,
           params: Parameters) -> torch.Tensor:
    """Computes softmax attention on E k and F v."""
    E = params["E"][..., :k.shape[2]]
    F = params.get("F", params["E"])[..., :k.shape[2]]
    keep = 1 if key_mask is None else key_mask[:, None, :, None]
    return softmax_attention(q, E @ (k.to(dtype) * keep), F @ (v.to(dtype) * keep), scale=scale, dtype=dtype)


@register("linformer", backends=[eager, sdpa], peak_bytes=peak_bytes)
def linformer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, rank: int, share: str, params: Parameters) -> torch.Tensor:
    """Projects k and v and asks the backend for softmax. Raises ValueError for more keys than the projections have."""
    E = params["E"]
    F = params.get("F", E)
    m, longest = k.shape[2], E.shape[-1]
    if m > longest:
        raise ValueError(f"linformer: {m} keys: its projections were built for seq_len={longest}; build it for {m}")
    if key_mask is not None:
        k, v = (x * key_mask[:, None, :, None] for x in (k, v))
    return attend(q, E[..., :m] @ k, F[..., :m] @ v, scale=scale)
