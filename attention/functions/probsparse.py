"""ProbSparse attention (Zhou et al., Informer, arXiv 2012.07436).

The u = factor ⌈ln n⌉ queries whose scores are furthest from uniform attend, the others give the mean of the values.
How far is measured on factor ⌈ln m⌉ keys, drawn for each query with replacement, as in the authors' code:
max_j q·k_j − (1/m) Σ_j q·k_j (equation 4). At least one query attends and one key is drawn.

Which queries attend is a function of the inputs alone: the draw is fixed by (n, m, seed), and the measure is taken
in float64 of the inputs as they come, by the oracle in any dtype and by every variant; of equal ones the first attends.

`masked` is the paper's masked form: a query sees the keys up to its own, and those that don't attend give the sum of
the values so far (no mean: its outputs may leave their hull). It is no causal function, so causal=True raises: which
queries attend is decided on all keys and among all queries, the later ones too.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.reference import softmax_attention
from attention.registry import register

ROWS = 128  # queries measured at once


def count(length: int, factor: int) -> int:
    """factor ⌈ln length⌉, at least 1 and at most `length`."""
    return max(1, min(length, factor * math.ceil(math.log(length))))


@functools.lru_cache(maxsize=8)
def _drawn(n: int, m: int, factor: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(m, (n, count(m, factor)), generator=generator).to(device)


def draw(n: int, m: int, factor: int, seed: int, device: torch.device) -> torch.Tensor:
    """The keys that each query is measured on, (N, count(m)), drawn on the CPU."""
    return _drawn(n, m, factor, seed, device)


# What torch.compiler.assume_constant_result does, which imports the compiler for it: the generator can't be traced.
vars(draw)["_dynamo_marked_constant"] = True


def flops(n: int, m: int, head_dim: int, causal: bool, factor: int, seed: int, masked: bool) -> int:
    """Of one head's forward pass: the drawn scores, then attention of the chosen queries."""
    return 2 * head_dim * n * count(m, factor) + 4 * head_dim * count(n, factor) * m


def peak_bytes(case: Case) -> int:
    """Predicted: one block of drawn keys in float64, the chosen queries' scores, the output once more."""
    factor = dict(case.options).get("factor", 5)
    wide = max(4, case.dtype.itemsize)
    scores = count(case.n, factor) * case.m * (2 * case.dtype.itemsize + 2 * wide)
    kept = scores * (2 if case.grad else 1) + case.n * case.head_dim * case.dtype.itemsize
    return Backend().peak_bytes(case) + drawn_bytes(case) + case.heads * kept


def drawn_bytes(case: Case) -> int:
    """One block of drawn keys, as they come and in float64."""
    drawn = min(ROWS, case.n) * count(case.m, dict(case.options).get("factor", 5)) * case.head_dim
    return case.heads * drawn * (8 + case.dtype.itemsize)


def validate(factor: int, seed: int, masked: bool) -> None:
    """Raises ValueError unless factor >= 1 and seed >= 0 are whole numbers."""
    for name, value, least in (("factor", factor, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"probsparse: {name}={value!r} must be a whole number >= {least}")
    if not isinstance(masked, bool):
        raise ValueError(f"probsparse: masked={masked!r} must be True or False")


def limits(case: Case) -> str | None:
    """The masked form adds up values query by query."""
    if dict(case.options).get("masked") and case.n != case.m:
        return f"masked=True needs as many keys as queries: n={case.n}, m={case.m}"
    return None


@register("probsparse", kind="approximate", paper="arXiv 2012.07436", flops=flops, cost="n log n",
          options={"factor": 5, "seed": 0, "masked": False}, validate=validate, limits=limits, causal=False,
          grouped=False, padding=False, flash=False, default=False,
          test_values={"factor": (2, 1, 5), "seed": (0, 3)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Softmax attention in the rows that are chosen, the mean (masked: the sum so far) of v in the others."""
    n, m = q.shape[2], k.shape[2]
    drawn = draw(n, m, factor, seed, q.device)
    with torch.no_grad():
        measures = []
        for some, keys in zip(q.double().split(256, dim=2), drawn.split(256), strict=True):
            scores = (some @ k.double().mT).gather(-1, keys.expand(*q.shape[:2], -1, -1))
            measures.append(scores.amax(-1) - scores.sum(-1) / m)
        first = torch.cat(measures, -1).sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
        chosen = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device).scatter_(-1, first, True)
    attended = softmax_attention(q, k, v, scale=scale, dtype=dtype, visible=(lambda i, j: j <= i) if masked else None)
    wide = torch.promote_types(dtype, torch.float32)
    others = v.to(wide).cumsum(2) if masked else v.to(wide).mean(2, keepdim=True)
    return torch.where(chosen[..., None], attended, others.to(dtype))


def chosen(q: torch.Tensor, k: torch.Tensor, factor: int, seed: int) -> torch.Tensor:
    """The positions of the queries that attend, (B, H, U)."""
    n, m = q.shape[2], k.shape[2]
    drawn = draw(n, m, factor, seed, q.device)
    measure = q.new_empty(q.shape[:3], dtype=torch.float64)
    with torch.no_grad():
        for r in range(0, n, ROWS):
            rows = slice(r, r + ROWS)
            scores = (k[:, :, drawn[rows]].double() @ q[:, :, rows].double().unsqueeze(-1)).squeeze(-1)
            measure[:, :, rows] = scores.amax(-1) - scores.sum(-1) / m
    return measure.sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]


def others(q: torch.Tensor, v: torch.Tensor, masked: bool) -> torch.Tensor:
    """What the queries that don't attend give: (B, H, N, D), summed in float32 or wider."""
    wide = torch.promote_types(v.dtype, torch.float32)
    if masked:
        return v.cumsum(2, dtype=wide).to(v.dtype)
    return v.mean(2, keepdim=True, dtype=wide).to(v.dtype).expand(-1, -1, q.shape[2], -1)


@register("probsparse", backends=[eager], peak_bytes=lambda case: eager.peak_bytes(case) + drawn_bytes(case))
def probsparse(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
               key_mask: None, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Every query attends, and the chosen rows are kept."""
    kept = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
    kept = kept.scatter(-1, chosen(q, k, factor, seed), True)
    attended = attend(q, k, v, scale=scale, band=masks.band(masked))
    return torch.where(kept[..., None], attended, others(q, v, masked))


@register("probsparse", backends=[chunked], peak_bytes=peak_bytes)
def by_chosen_rows(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                   key_mask: None, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Queries are measured in blocks, and only the chosen ones attend."""
    rows = chosen(q, k, factor, seed)
    index = rows[..., None].expand(-1, -1, -1, q.shape[-1])
    scores = (q.gather(2, index) * scale) @ k.mT
    if masked:
        scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > rows[..., None], -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return others(q, v, masked).scatter(2, index, weights @ v)
