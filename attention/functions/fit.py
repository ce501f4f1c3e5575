"""FIT, Far-reaching Interleaved Transformers (Chen & Li, arXiv 2305.12689): one block has four attentions.

The sequence is cut into groups of `group` positions, each with `latents` latent positions:
 1. local: x = softmax(q kᵀ) v within each group;
 2. read: the latents attend to their group, z = softmax(l kᵀ) x, and likewise to its keys, κ = softmax(l kᵀ) k;
 3. global: the latents of all groups attend to one another, z ← z + softmax(κ κᵀ) z;
 4. write: each position attends to its group's latents, out = x + softmax(q κᵀ) z.

The paper's layers project between these steps. Here q, k and v are the only projections, κ serves as the latents'
queries and keys, and the sums are its residual connections. l, (latents, D) for each head, is learned and the same for
all groups. It starts, with seed 0, with orthogonal rows of length √D, the usual length of a query. By default `group`
is ⌈(n latents²)^⅓⌉, where local and global attention cost the same: n^(4/3), as in the paper.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from attention import blocks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.sdpa import sdpa
from attention.function import Parameters, require_whole
from attention.registry import register


def size(n: int, group: int | None, latents: int) -> int:
    """Gives the number of positions in a group."""
    return group or math.ceil(round((n * latents ** 2) ** (1 / 3), 6))


def flops(n: int, m: int, head_dim: int, causal: bool, group: int | None, latents: int) -> int:
    """Counts the FLOPs of one head's forward pass: local, two reads, global, write."""
    C = size(n, group, latents)
    T = -(-n // C)
    return 4 * head_dim * (T * C * C + 2 * T * C * latents + (T * latents) ** 2 + T * C * latents)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: the scores of the largest step (with gradients of all steps), and x."""
    latents = dict(case.options).get("latents", 8)
    C = size(case.n, dict(case.options).get("group"), latents)
    scores = max(case.n * C, (-(-case.n // C) * latents) ** 2) if not case.grad else (
        case.n * (C + 3 * latents) + (-(-case.n // C) * latents) ** 2)
    one, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    head = scores * (2 * one + wide) + 5 * case.n * case.head_dim * one
    return Backend().peak_bytes(case) + case.heads * head * (2 if case.grad else 1)


def validate(group: int | None, latents: int) -> None:
    """Raises ValueError unless `latents` and `group` are whole numbers of at least 1; `group` may be None."""
    require_whole("fit", group=1 if group is None else group, latents=latents)


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, group: int | None,
               latents: int) -> Parameters:
    """Builds the latents, (H, latents, D)."""
    generator = torch.Generator().manual_seed(0)
    start = torch.empty(heads, latents, head_dim, dtype=torch.float64)
    for head in start:
        torch.nn.init.orthogonal_(head, gain=head_dim ** 0.5, generator=generator)
    return {"latents": torch.nn.Parameter(start)}


@register("fit", kind="approximate", paper="arXiv 2305.12689", flops=flops, cost="n^(4/3)",
          options={"group": None, "latents": 8}, validate=validate, parameters=parameters, causal=False, cross=False,
          grouped=False, padding=False, convex=False, flash=False, default=False,
          test_values={"group": (16, None, 5, 64), "latents": (8, 1)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, params: Parameters, group: int | None, latents: int) -> torch.Tensor:
    """Computes the four steps, group by group."""
    B, _, n, D = q.shape
    scale = D ** -0.5 if scale is None else scale
    C = size(n, group, latents)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (scale * (q @ k.mT)).softmax(-1) @ v

    latent = params["latents"].to(dtype).expand(B, -1, -1, -1)
    groups = list(zip(*(x.to(dtype).split(C, dim=2) for x in (q, k, v)), strict=True))
    x = [attention(q, k, v) for q, k, v in groups]
    kappa = [attention(latent, k, k) for _, k, _ in groups]
    z = torch.cat([attention(latent, k, x) for (_, k, _), x in zip(groups, x, strict=True)], 2)
    all_kappa = torch.cat(kappa, 2)
    z = z + attention(all_kappa, all_kappa, z)
    out = [x + attention(q, kappa, z) for (q, _, _), x, kappa, z in zip(
        groups, x, kappa, z.split(latents, dim=2), strict=True)]
    return torch.cat(out, 2)


@register("fit", backends=[sdpa], peak_bytes=peak_bytes)
def fit(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
        key_mask: None, params: Parameters, group: int | None, latents: int) -> torch.Tensor:
    """Computes all groups at once; `attend` takes each group for a sequence."""
    n = q.shape[2]
    C = size(n, group, latents)
    q, k, v = (blocks.cut(x, C) for x in (q, k, v))
    B, _, T = q.shape[:3]
    real = blocks.real(n, C, q.device) if n % C else None
    start = params["latents"][:, None].expand(B, -1, T, -1, -1)
    x = blocks.attend_within(attend, q, k, v, scale=scale, keep_TE=real)
    kappa, z = (blocks.attend_within(attend, start, k, values, scale=scale, keep_TE=real) for values in (k, x))
    all_kappa = kappa.flatten(2, 3)
    z = z + attend(all_kappa, all_kappa, z.flatten(2, 3), scale=scale).unflatten(2, (T, latents))
    return blocks.join(x + blocks.attend_within(attend, q, kappa, z, scale=scale, keep_TE=None), n)


def wide_bytes(case: Case) -> int:
    """Predicts peak bytes of the same in float32 or wider."""
    return peak_bytes(replace(case, dtype=torch.promote_types(case.dtype, torch.float32)))


@register("fit", backends=[eager], peak_bytes=wide_bytes)
def in_float32(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
               key_mask: None, params: Parameters, **options: Any) -> torch.Tensor:
    """Computes the same in float32 or wider, since gradients of large inputs overflow float16 between the steps."""
    wide = torch.promote_types(q.dtype, torch.float32)
    params = {name: x.to(wide) for name, x in params.items()}
    return fit(attend, q.to(wide), k.to(wide), v.to(wide), causal=causal, scale=scale, key_mask=key_mask,
               params=params, **options).to(q.dtype)
