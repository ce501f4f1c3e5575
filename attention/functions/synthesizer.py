"""Synthesizer learns scores instead of comparing queries with keys (Tay et al., Rethinking Self-Attention in
Transformer Models, arXiv 2005.00743).

`k` is not used, and only the dense form uses `q`.
 - form="dense": relu(q) W, one learned column of W for each position (equation 3, whose first layer computes q);
 - form="random": learned scores R, one for each pair of positions (equation 5);
 - form="factorised": R = R₁ R₂ᵀ of rank `rank` (equation 7).

The paper does not scale scores: they are multiplied by scale √D, which is 1 at the default scale. Parameters belong to
positions 0 ... seq_len - 1 and start Xavier-uniform with seed 0. Dense and factorised scores are products, with W and
R₂ in place of the keys.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.function import Parameters, require_whole
from attention.reference import softmax_attention
from attention.registry import register

FORMS = ("dense", "random", "factorised")


def flops(n: int, m: int, head_dim: int, causal: bool, form: str, rank: int) -> int:
    """Counts the FLOPs of one head's forward pass over visible pairs: scores, if they are a product, and values."""
    width = {"dense": head_dim, "random": 0, "factorised": rank}[form]
    return 2 * (width + head_dim) * masks.band(causal).pairs(n, m)


def validate(form: str, rank: int) -> None:
    """Raises ValueError for an unknown form, and unless `rank` is a whole number of at least 1."""
    if form not in FORMS:
        raise ValueError(f"synthesizer: form={form!r} must be one of {', '.join(FORMS)}")
    require_whole("synthesizer", rank=rank)


def limits(case: Case) -> str | None:
    """Refuses queries that stand before the first key where scores belong to positions."""
    if case.n > case.m and not case.causal and dict(case.options).get("form", "dense") != "dense":
        return f"scores of positions need no more queries than keys: n={case.n}, m={case.m}"
    return None


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, form: str,
               rank: int) -> Parameters:
    """Draws W as (H, seq_len, D), or R as (H, seq_len, seq_len), or R₁ and R₂ as (H, seq_len, rank).

    Raises ValueError without seq_len.
    """
    if seq_len is None:
        raise ValueError("synthesizer: seq_len=None must be the number of positions: it learns scores for each")
    generator = torch.Generator().manual_seed(0)

    def xavier(width: int) -> torch.nn.Parameter:
        bound = (6 / (seq_len + width)) ** 0.5
        uniform = torch.rand(heads, seq_len, width, dtype=torch.float64, generator=generator)
        return torch.nn.Parameter((2 * uniform - 1) * bound)

    if form == "dense":
        return {"keys": xavier(head_dim)}
    if form == "random":
        return {"scores": xavier(seq_len)}
    return {"queries": xavier(rank), "keys": xavier(rank)}


@register("synthesizer", kind="approximate", paper="arXiv 2005.00743", flops=flops, cost="n²",
          options={"form": "dense", "rank": 8}, validate=validate, limits=limits, parameters=parameters,
          grouped=False, flash=False, default=False,
          test_values={"form": FORMS})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, params: Parameters, form: str, rank: int) -> torch.Tensor:
    """Computes softmax(relu(q) W) v or softmax(R) v."""
    B, H, n, D = q.shape
    m = v.shape[2]
    times = 1.0 if scale is None else scale * D ** 0.5
    visible = (lambda i, j: j <= i) if causal else None
    if form == "dense":
        w = params["keys"][:, :m].expand(B, -1, -1, -1)
        return softmax_attention(q.to(dtype).clamp(min=0), w, v, scale=times, visible=visible, key_mask=key_mask,
                                 dtype=dtype)
    table = params["scores"] if form == "random" else params["queries"] @ params["keys"].mT
    zero = torch.zeros(B, H, 1, 1, dtype=dtype, device=q.device)
    return softmax_attention(zero.expand(-1, -1, n, -1), zero.expand(-1, -1, m, -1), v, scale=1.0,
                             visible=visible, key_mask=key_mask, dtype=dtype,
                             bias=lambda h, i, j: times * table[h, i.clamp(min=0), j])  # before key 0 a query sees none


@register("synthesizer", backends=[eager])
def synthesizer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                key_mask: torch.Tensor | None, params: Parameters, form: str, rank: int) -> torch.Tensor:
    """Asks the backend for softmax of learned keys and queries; random scores come from their table.

    Raises ValueError for more keys than the parameters have positions.
    """
    B, _, n, D = q.shape
    m, longest = v.shape[2], next(iter(params.values())).shape[1]
    if m > longest:
        raise ValueError(f"synthesizer: m={m} keys, built for seq_len={longest}; build it for the longest sequence")
    if form == "random":
        scores = params["scores"][:, m - n:m, :m] * (scale * D ** 0.5)
        return _softmax(scores, v, masks.dense(masks.band(causal), n, m, q.device, key_mask))
    keys = params["keys"][:, :m].expand(B, -1, -1, -1)
    queries = q.relu() if form == "dense" else params["queries"][:, m - n:m].expand(B, -1, -1, -1)
    return attend(queries, keys, v, scale=scale * D ** 0.5, band=masks.band(causal), key_mask=key_mask)


def _softmax(scores: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Computes softmax(scores) v, the softmax in float32 or wider; a row without a visible key gives zeros."""
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
    if mask is not None:
        weights = torch.where(mask.any(-1, keepdim=True), weights, 0)
    return weights @ v
