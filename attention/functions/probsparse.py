"""ProbSparse attention computes scores only for the queries that need them (Zhou et al., Informer, arXiv 2012.07436).

The u = factor ⌈ln n⌉ queries whose scores are furthest from uniform attend; the others give the mean of the values. The
distance from uniform is measured on a sample of factor ⌈ln m⌉ keys for each query, with replacement, as in the authors'
code: max_j q·k_j − (1/m) Σ_j q·k_j (equation 4). At least one query attends, and a sample has at least one key.

The choice of queries depends on the inputs alone: (n, m, seed) fix the sample, and the oracle in any dtype and every
variant compute the measure in float64 from the inputs. Of equal queries the first attends.

`masked` is the paper's masked form: a query sees the keys up to its own, and a query that does not attend gives the sum
of the values so far (not the mean, so an output may lie outside the hull of the values). It is not a causal function,
so causal=True raises an error: the choice of queries uses all keys and all queries, later ones too.
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
from attention.backends.product import product, wide
from attention.function import require_whole
from attention.reference import softmax_attention
from attention.registry import register

ROWS = 128  # queries measured at once


def count(length: int, factor: int) -> int:
    """Gives factor ⌈ln length⌉, at least 1 and at most `length`."""
    return max(1, min(length, factor * math.ceil(math.log(length))))


@functools.lru_cache(maxsize=8)
def _sample(n: int, m: int, factor: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(m, (n, count(m, factor)), generator=generator).to(device)


def sample(n: int, m: int, factor: int, seed: int, device: torch.device) -> torch.Tensor:
    """Draws, on the CPU, the keys that each query is measured on: (N, count(m))."""
    return _sample(n, m, factor, seed, device)


# torch.compile can't trace the generator. This is what torch.compiler.assume_constant_result sets, which would import
# the compiler.
vars(sample)["_dynamo_marked_constant"] = True


def flops(n: int, m: int, head_dim: int, causal: bool, factor: int, seed: int, masked: bool) -> int:
    """Counts the FLOPs of one head's forward pass: the scores of the sample, then attention of the chosen queries."""
    return 2 * head_dim * n * count(m, factor) + 4 * head_dim * count(n, factor) * m


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: one block of the sample in float64, the chosen queries' scores, a second output."""
    factor = dict(case.options).get("factor", 5)
    wide = max(4, case.dtype.itemsize)
    scores = count(case.n, factor) * case.m * (2 * case.dtype.itemsize + 2 * wide)
    head = scores * (2 if case.grad else 1) + case.n * case.head_dim * case.dtype.itemsize
    return Backend().peak_bytes(case) + sample_bytes(case) + case.heads * head


def sample_bytes(case: Case) -> int:
    """Predicts the bytes of one block of the sample, in the inputs' dtype and in float64."""
    numbers = min(ROWS, case.n) * count(case.m, dict(case.options).get("factor", 5)) * case.head_dim
    return case.heads * numbers * (8 + case.dtype.itemsize)


def validate(factor: int, seed: int, masked: bool) -> None:
    """Raises ValueError unless `factor` >= 1 and `seed` >= 0 are whole numbers and `masked` is a bool."""
    require_whole("probsparse", factor=factor)
    require_whole("probsparse", least=0, seed=seed)
    if not isinstance(masked, bool):
        raise ValueError(f"probsparse: masked={masked!r} must be True or False")


def limits(case: Case) -> str | None:
    """Refuses the masked form, which adds up values query by query, for another number of keys than queries."""
    if dict(case.options).get("masked") and case.n != case.m:
        return f"masked=True needs as many keys as queries: n={case.n}, m={case.m}"
    return None


@register("probsparse", kind="approximate", paper="arXiv 2012.07436", flops=flops, cost="n log n",
          options={"factor": 5, "seed": 0, "masked": False}, validate=validate, limits=limits, causal=False,
          grouped=False, padding=False, flash=False, default=False,
          test_values={"factor": (2, 1, 5), "seed": (0, 3)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Computes softmax attention in the chosen rows, the mean of v (masked: the sum so far) in the others."""
    n, m = q.shape[2], k.shape[2]
    sampled_keys = sample(n, m, factor, seed, q.device)
    with torch.no_grad():
        measures = []
        for rows, keys in zip(q.double().split(256, dim=2), sampled_keys.split(256), strict=True):
            scores = (rows @ k.double().mT).gather(-1, keys.expand(*q.shape[:2], -1, -1))
            measures.append(scores.amax(-1) - scores.sum(-1) / m)
        first = torch.cat(measures, -1).sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
        chosen = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device).scatter_(-1, first, True)
    softmax = softmax_attention(q, k, v, scale=scale, dtype=dtype, visible=(lambda i, j: j <= i) if masked else None)
    wide = torch.promote_types(dtype, torch.float32)
    others = v.to(wide).cumsum(2) if masked else v.to(wide).mean(2, keepdim=True)
    return torch.where(chosen[..., None], softmax, others.to(dtype))


def choose(q: torch.Tensor, k: torch.Tensor, factor: int, seed: int) -> torch.Tensor:
    """Gives the positions of the queries that attend, (B, H, U)."""
    n, m = q.shape[2], k.shape[2]
    keys = sample(n, m, factor, seed, q.device)
    measure = q.new_empty(q.shape[:3], dtype=torch.float64)
    with torch.no_grad():
        for r in range(0, n, ROWS):
            rows = slice(r, r + ROWS)
            scores = (k[:, :, keys[rows]].double() @ q[:, :, rows].double().unsqueeze(-1)).squeeze(-1)
            measure[:, :, rows] = scores.amax(-1) - scores.sum(-1) / m
    return measure.sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]


def others(q: torch.Tensor, v: torch.Tensor, masked: bool) -> torch.Tensor:
    """Computes the outputs of queries that don't attend, (B, H, N, D), of `v` in float32 or wider."""
    return v.cumsum(2) if masked else v.mean(2, keepdim=True).expand(-1, -1, q.shape[2], -1)


@register("probsparse", backends=[eager], peak_bytes=lambda case: eager.peak_bytes(case) + sample_bytes(case))
def probsparse(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
               key_mask: None, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Lets every query attend and takes the rows of the chosen ones."""
    chosen = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
    chosen = chosen.scatter(-1, choose(q, k, factor, seed), True)
    values = wide(v)
    softmax = attend(q, k, values.to(v.dtype), scale=scale, band=masks.band(masked))
    return torch.where(chosen[..., None], softmax, others(q, values, masked)).to(v.dtype)


@register("probsparse", backends=[chunked], peak_bytes=peak_bytes)
def by_rows(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
            key_mask: None, factor: int, seed: int, masked: bool) -> torch.Tensor:
    """Measures queries in blocks and lets only the chosen ones attend."""
    rows = choose(q, k, factor, seed)
    index = rows[..., None].expand(-1, -1, -1, q.shape[-1])
    scores = product(q.gather(2, index), k.mT, scale)
    if masked:
        scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > rows[..., None], -torch.inf)
    values = wide(v)
    out = product(scores.softmax(-1), values, dtype=v.dtype)
    return others(q, values, masked).scatter(2, index, out).to(v.dtype)
