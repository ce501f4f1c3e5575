"""Selective hard attention uses only the highest scores of each query (Nagarajan et al., AxFormer, arXiv 2010.03688).

A query's softmax is over the `top` visible keys with the highest scores, and over all keys that tie with the last of
these. With `top` keys or fewer it is softmax. Gradients flow through the scores of these keys, not through their
choice. The scores are computed in the next wider dtype, float32 for half precision and float64 for float32, so that no
two backends choose different keys because of rounding.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.function import require_whole
from attention.functions.softmax import pairs as all_pairs
from attention.registry import register

ROWS = 256  # queries whose scores are in memory at once
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


def validate(top: int) -> None:
    """Raises ValueError unless `top` is a whole number of at least 1."""
    require_whole("hard-attention", top=top)


def flops(n: int, m: int, head_dim: int, causal: bool, top: int) -> int:
    """Counts the FLOPs of one head's forward pass: a score for every visible pair, a value for every chosen one."""
    choices = sum(min(top, i + 1 if causal else m) for i in range(m - n, m) if i >= 0 or not causal)
    return 2 * head_dim * (all_pairs(n, m, causal) + choices)


def undecided(q: torch.Tensor, k: torch.Tensor, *, causal: bool, scale: float | None, key_mask: torch.Tensor | None,
              top: int) -> torch.Tensor:
    """Finds the rows, bool (B, H, N), in which a score is so close to the last one kept that rounding decides.

    Scores that decide are exact but for the sums of the wider dtype.
    """
    (_, H, n, D), m = q.shape, k.shape[2]
    close = 16 * torch.finfo(widen(q[:0]).dtype).eps
    shared = k.repeat_interleave(H // k.shape[1], 1).double()
    parts = []
    for first in range(0, n, ROWS):
        scores = q[:, :, first:first + ROWS].double() @ shared.mT * (D ** -0.5 if scale is None else scale)
        i = torch.arange(first, first + scores.shape[2], device=q.device) + m - n
        if causal:
            scores = scores.masked_fill(torch.arange(m, device=q.device) > i[:, None], -torch.inf)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], -torch.inf)
        best = scores.topk(min(top, m), -1).values
        size = best[..., :1].abs() + best[..., -1:].abs()
        parts.append((((scores - best[..., -1:]).abs() <= close * size).sum(-1) > 1) & best[..., -1].isfinite())
    return torch.cat(parts, 2)


@register("hard-attention", kind="structured", paper="arXiv 2010.03688", flops=flops, options={"top": 32},
          validate=validate, values=True, static_cache=True, default=False, undecided=undecided,
          test_values={"top": (5, 1, 3, 32, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, top: int) -> torch.Tensor:
    """Sorts the scores of each row, drops those under the top-th, and takes the softmax of the rest."""
    (B, H, n, D), m = q.shape, k.shape[2]
    scale = D ** -0.5 if scale is None else scale
    k, v = (x.to(dtype).repeat_interleave(H // k.shape[1], 1) for x in (k, v))

    def rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * scale
        hidden = torch.zeros(1, 1, 1, m, dtype=torch.bool, device=q.device)
        if causal:
            i = torch.arange(first, first + q.shape[2], device=q.device) + m - n
            hidden = hidden | (torch.arange(m, device=q.device) > i[:, None])
        if key_mask is not None:
            hidden = hidden | ~key_mask[:, None, None]
        exact = torch.einsum("bhnd,bhmd->bhnm", q.detach().double(), k.detach().double()) * scale
        exact = exact.masked_fill(hidden, -torch.inf)  # decides in float64, whatever the dtype
        hidden = hidden | (exact < exact.sort(-1, descending=True).values[..., min(top, m) - 1, None])
        blind = hidden.all(-1, keepdim=True)
        scores = scores.masked_fill(hidden, -torch.inf).masked_fill(blind, 0)
        return scores.softmax(-1).masked_fill(blind, 0) @ v

    size = max(1, 2 ** (28 if q.is_cuda else 22) // (B * H * m))
    parts = [checkpoint(rows, part, k, v, first, use_reentrant=False, preserve_rng_state=False)
             for first, part in zip(range(0, n, size), q.to(dtype).split(size, 2), strict=True)]
    return torch.cat(parts, 2)


def attend_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int, causal: bool, scale: float,
                key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    """Computes queries (B, H, rows, D), the first at position `first`, on all keys; k and v are in the wider dtype."""
    (B, H, rows, D), (G, m) = q.shape, k.shape[1:3]
    scores = (q.to(k.dtype).reshape(B, G, H // G * rows, D) * scale) @ k.transpose(-1, -2)
    scores = scores.view(B, H, rows, m)
    mask = None
    if causal:
        i = torch.arange(first, first + rows, device=q.device)
        mask = masks.CAUSAL(i[:, None], torch.arange(m, device=q.device))
    if key_mask is not None:
        keep = key_mask[:, None, None]
        mask = keep if mask is None else mask & keep
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    least = scores.detach().topk(min(top, m), -1).values[..., -1:]
    weights = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
    if key_mask is not None and mask is not None:
        weights = torch.where(mask.any(-1, keepdim=True), weights, 0)
    return (weights.to(q.dtype).view(B, G, -1, m) @ v.to(q.dtype)).view(B, H, rows, -1)


def widen(x: torch.Tensor) -> torch.Tensor:
    """Converts x to the next wider dtype; the gradients of all pieces that use it are summed in that dtype."""
    return x.to(_WIDER.get(x.dtype, x.dtype))


def score_bytes(case: Case, rows: int) -> int:
    """Counts the bytes of k, v and the scores of `rows` queries (3 times, with gradients 4) in the wider dtype."""
    size = _WIDER.get(case.dtype, case.dtype).itemsize
    keys = size * case.kv_heads * case.m * (case.head_dim + case.values)
    return (4 if case.grad else 3) * case.heads * min(rows, case.n) * case.m * size + keys


@register("hard-attention", backends=[eager],
          peak_bytes=lambda case: chunked.peak_bytes(case) + score_bytes(case, case.n))
def hard_attention(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                   key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    """Computes all queries at once."""
    return attend_rows(q, widen(k), widen(v), k.shape[2] - q.shape[2], causal, scale, key_mask, top)


@register("hard-attention", backends=[chunked],
          peak_bytes=lambda case: chunked.peak_bytes(case) + score_bytes(case, ROWS))
def by_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, top: int) -> torch.Tensor:
    """Computes a few queries at a time, and again for the gradient, so memory grows with n, not n².

    Causal queries skip the keys after the last of them.
    """
    k, v, start, parts = widen(k), widen(v), k.shape[2] - q.shape[2], []
    for part in q.split(ROWS, 2):
        stop = start + part.shape[2] if causal else k.shape[2]
        keep = None if key_mask is None else key_mask[:, :stop]
        parts.append(checkpoint(attend_rows, part, k[:, :, :stop], v[:, :, :stop], start, causal, scale, keep, top,
                                use_reentrant=False, preserve_rng_state=False))
        start += part.shape[2]
    return torch.cat(parts, 2)
