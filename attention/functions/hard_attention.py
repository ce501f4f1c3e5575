"""Selective hard attention: each query keeps its highest scores alone (Nagarajan et al., AxFormer,
arXiv 2010.03688).

A query's softmax is over the `top` keys of the highest scores among those it sees, and over all keys that tie with
the last of these. With `top` keys or fewer it is softmax. Gradients flow through the kept scores; which are kept has
none. Scores that decide are computed one precision up, float32 from half and float64 from float32, so that no two
backends keep different keys because of a rounding.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.functions.softmax import pairs as all_pairs
from attention.registry import register

ROWS = 256  # queries scored at once
_UP = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


def validate(top: int) -> None:
    """Raises ValueError unless `top` is a whole number of at least 1."""
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"hard-attention: top={top!r} must be a whole number >= 1")


def flops(n: int, m: int, head_dim: int, causal: bool, top: int) -> int:
    """A score for every visible pair, and a value for every kept one."""
    kept = sum(min(top, i + 1 if causal else m) for i in range(m - n, m) if i >= 0 or not causal)
    return 2 * head_dim * (all_pairs(n, m, causal) + kept)


@register("hard-attention", kind="structured", paper="arXiv 2010.03688", flops=flops, options={"top": 32},
          validate=validate, values=True, default=False,
          test_values={"top": (5, 1, 3, 32, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, top: int) -> torch.Tensor:
    """Row by row: sort the scores, drop those under the top-th, softmax of the rest."""
    (B, H, n, D), m = q.shape, k.shape[2]
    shared = H // k.shape[1]
    k, v = (x.to(dtype).repeat_interleave(shared, 1) for x in (k, v))

    def rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (D ** -0.5 if scale is None else scale)
        hidden = torch.zeros(1, 1, 1, m, dtype=torch.bool, device=q.device)
        if causal:
            i = torch.arange(first, first + q.shape[2], device=q.device) + m - n
            hidden = hidden | (torch.arange(m, device=q.device) > i[:, None])
        if key_mask is not None:
            hidden = hidden | ~key_mask[:, None, None]
        scores = scores.masked_fill(hidden, -torch.inf)
        least = scores.detach().sort(-1, descending=True).values[..., min(top, m) - 1, None]
        dropped = hidden | (scores.detach() < least)
        blind = dropped.all(-1, keepdim=True)
        kept = scores.masked_fill(dropped, -torch.inf).masked_fill(blind, 0)
        return kept.softmax(-1).masked_fill(blind, 0) @ v

    size = max(1, 2 ** (28 if q.is_cuda else 22) // (B * H * m))
    parts = [checkpoint(rows, part, k, v, first, use_reentrant=False, preserve_rng_state=False)
             for first, part in zip(range(0, n, size), q.to(dtype).split(size, 2), strict=True)]
    return torch.cat(parts, 2)


def attend_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int, causal: bool, scale: float,
                key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    """Queries (B, H, rows, D), the first of them at position `first`, on all keys; k and v are one precision up."""
    (B, H, rows, D), (G, m) = q.shape, k.shape[1:3]
    scores = (q.to(k.dtype).reshape(B, G, H // G * rows, D) * scale) @ k.transpose(-1, -2)
    scores = scores.view(B, H, rows, m)
    seen = None
    if causal:
        i = torch.arange(first, first + rows, device=q.device)
        seen = masks.CAUSAL(i[:, None], torch.arange(m, device=q.device))
    if key_mask is not None:
        keep = key_mask[:, None, None]
        seen = keep if seen is None else seen & keep
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    least = scores.detach().topk(min(top, m), -1).values[..., -1:]
    weights = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
    if key_mask is not None and seen is not None:
        weights = torch.where(seen.any(-1, keepdim=True), weights, 0)
    return (weights.to(q.dtype).view(B, G, -1, m) @ v.to(q.dtype)).view(B, H, rows, -1)


def up(x: torch.Tensor) -> torch.Tensor:
    """x one precision up; the gradients of the pieces that it is used in are summed there."""
    return x.to(_UP.get(x.dtype, x.dtype))


def scored_bytes(case: Case, rows: int) -> int:
    """Bytes of the scores of `rows` queries, three times or, with gradients, four, and of k and v, one precision up."""
    size = _UP.get(case.dtype, case.dtype).itemsize
    keys = size * case.kv_heads * case.m * (case.head_dim + case.values)
    return (4 if case.grad else 3) * case.heads * min(rows, case.n) * case.m * size + keys


@register("hard-attention", backends=[eager],
          peak_bytes=lambda case: chunked.peak_bytes(case) + scored_bytes(case, case.n))
def whole(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
          key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    return attend_rows(q, up(k), up(v), k.shape[2] - q.shape[2], causal, scale, key_mask, top)


@register("hard-attention", backends=[chunked],
          peak_bytes=lambda case: chunked.peak_bytes(case) + scored_bytes(case, ROWS))
def in_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    """A few queries at a time, computed again for the gradient: memory grows with n. Causal, on the keys so far."""
    k, v, start, parts = up(k), up(v), k.shape[2] - q.shape[2], []
    for part in q.split(ROWS, 2):
        stop = start + part.shape[2] if causal else k.shape[2]
        keep = None if key_mask is None else key_mask[:, :stop]
        parts.append(checkpoint(attend_rows, part, k[:, :, :stop], v[:, :, :stop], start, causal, scale, keep, top,
                                use_reentrant=False, preserve_rng_state=False))
        start += part.shape[2]
    return torch.cat(parts, 2)
