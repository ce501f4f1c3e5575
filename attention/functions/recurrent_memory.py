"""Recurrent memory: exact attention within a segment, everything before it compressed to a state of fixed size
(Munkhdalai et al., Leave No Context Behind, arXiv 2404.07143: Infini-attention with the linear update).

out = g memory + (1 - g) local, g = sigmoid(gate), one learned gate a head, 0 at first. local is causal softmax
attention within the segment of `segment` tokens; memory is φ(q) M / φ(q)·z with φ = elu + 1 and M, z the sums of
φ(k) vᵀ and φ(k) over all segments before. Where nothing was before, or the segment shows nothing, the other stands
alone: a segment of the whole length is softmax attention. It is causal by its nature.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import elu, pad

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.function import Parameters
from attention.functions import _linear
from attention.functions._weighted import weighted_mean
from attention.reference import softmax_attention
from attention.registry import register

SEGMENT = 256


def validate(segment: int) -> None:
    """Raises ValueError for a segment without a token."""
    if not isinstance(segment, int) or segment < 1:
        raise ValueError(f"recurrent-memory: segment={segment!r} must be a whole number >= 1")


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Two segments of a probe's few tokens."""
    return {"segment": min(options["segment"], max(1, m // 2))}


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool,
               segment: int) -> Parameters:
    """One gate a head, at zero: memory and segment count alike."""
    return {"gate": nn.Parameter(torch.zeros(heads, dtype=torch.float64))}


def flops(n: int, m: int, head_dim: int, causal: bool, segment: int) -> int:
    """Of one head's forward pass by segments: 4 D a pair within a segment, 2 D² a query and a key of the memory."""
    segment = min(segment, m)
    start = (m - n) // segment * segment
    rows = -(-(m - start) // segment) * segment
    return 4 * head_dim * rows * segment + 2 * head_dim * (head_dim * (rows + start + rows - segment) + rows)


def peak_bytes(case: Case) -> int:
    segment, wide = min(dict(case.options).get("segment", SEGMENT), case.m), max(4, case.dtype.itemsize)
    rows, keys = case.heads * case.n, case.kv_heads * case.m
    held = rows * (4 * case.head_dim + 3 * segment) + keys * 3 * case.head_dim
    states = 2 * keys // segment * case.head_dim ** 2
    return Backend().peak_bytes(case) + wide * (held + states) * (2 if case.grad else 1)


@register("recurrent-memory", kind="approximate", paper="arXiv 2404.07143", flops=flops, cost="n", default=False,
          flash=False, options={"segment": SEGMENT}, validate=validate, full=False, few=few, parameters=parameters,
          test_values={"segment": (16, 1, 64, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, segment: int, params: Parameters) -> torch.Tensor:
    """Equations 2 and 3 and the gate of equation 10, both parts as weighted means of values."""
    q, k, v = (x.to(dtype) for x in (q, k, v))
    n, m = q.shape[2], k.shape[2]
    local = softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                              visible=lambda i, j: (j <= i) & (j // segment == i // segment))
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (q, k))

    def earlier(q: torch.Tensor, k: torch.Tensor, seen: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        weights = (q @ k.mT).masked_fill(~(seen & (j // segment < i // segment)), 0)
        nothing = weights.sum(-1, keepdim=True) == 0
        return torch.where(nothing, 1, weights)  # any weights: they do not count, see `empty`

    memory = weighted_mean(earlier, phi_q, phi_k, v, causal=True, key_mask=key_mask)
    i, j = torch.arange(m - n, m, device=q.device)[:, None], torch.arange(m, device=q.device)
    keep = torch.ones(1, 1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask[:, None]
    empty = ~(keep & (j // segment < i // segment)).any(-1)[:, None, :, None]
    blind = ~(keep & (j // segment == i // segment) & (j <= i)).any(-1)[:, None, :, None]
    gate = params["gate"].sigmoid()[:, None, None].expand(q.shape[0], -1, n, 1)
    gate = gate.masked_fill(blind, 1).masked_fill(empty, 0)
    return gate * memory + (1 - gate) * local


def _gated(memory: torch.Tensor, local: torch.Tensor, gate_H: torch.Tensor, remembers: torch.Tensor,
           sees: torch.Tensor) -> torch.Tensor:
    """The mean of memory and local (B, H, N, D), by the gate where both are; `remembers`, `sees`: (B or 1, 1, N, 1)."""
    gate = gate_H.to(local.dtype).sigmoid()[:, None, None]
    share = torch.where(remembers, torch.where(sees, gate, 1), 0)
    return torch.lerp(local, memory, share)


def _presence(n: int, m: int, segment: int, device: torch.device,
              key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether there is a key before a query's segment, and one within it up to the query: (B or 1, 1, N, 1)."""
    keep = torch.ones(1, m, dtype=torch.long, device=device) if key_mask is None else key_mask.long()
    upto = pad(keep.cumsum(1), (1, 0))
    own = torch.arange(m - n, m, device=device)
    before = upto[:, own // segment * segment]
    return (before > 0)[:, None, :, None], (upto[:, own + 1] > before)[:, None, :, None]


@register("recurrent-memory", backends=[eager])
def recurrent_memory(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                     key_mask: torch.Tensor | None, segment: int, params: Parameters) -> torch.Tensor:
    """Two n x m matrices, to be read: softmax within segments, kernel weights on those before."""
    N, M, G = q.shape[2], k.shape[2], k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    i, j = masks.positions(N, M, q.device)
    grouped = (G, q.shape[1] // G)
    seen = j <= i if key_mask is None else (j <= i) & key_mask[:, None, :]
    near = (seen & (i // segment == j // segment)).view(-1, 1, 1, N, M)
    queries, keys, values = q.to(wide).unflatten(1, grouped), k.to(wide).unsqueeze(2), v.to(wide).unsqueeze(2)
    scores = (scale * queries @ keys.mT).masked_fill(~near, torch.finfo(wide).min)
    local = scores.softmax(-1).masked_fill(~near, 0) @ values
    weights = ((elu(queries) + 1) @ (elu(keys) + 1).mT)
    weights = weights.masked_fill(~(seen & (j // segment < i // segment)).view(-1, 1, 1, N, M), 0)
    memory = _linear.share(weights, weights.sum(-1, keepdim=True)) @ values
    presence = _presence(N, M, segment, q.device, key_mask)
    return _gated(memory.flatten(1, 2), local.flatten(1, 2), params["gate"], *presence).to(q.dtype)


@register("recurrent-memory", backends=[chunked], peak_bytes=peak_bytes)
def by_segments(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                key_mask: torch.Tensor | None, segment: int, params: Parameters) -> torch.Tensor:
    """All segments at once: softmax within each, and for each the sums over those before."""
    N, M, G = q.shape[2], k.shape[2], k.shape[1]
    C = min(segment, M)
    start = (M - N) // C * C  # of the segment of the first query
    T = -(-(M - start) // C)
    first, rest = M - N - start, T * C - (M - start)
    wide = torch.promote_types(q.dtype, torch.float32)
    q_BGSTCD = pad(q.to(wide), (0, 0, first, rest)).unflatten(2, (T, C)).unflatten(1, (G, -1))
    k, v = k.to(wide), v.to(wide)
    phi_q, phi_k = elu(q_BGSTCD) + 1, elu(k) + 1
    keep = None if key_mask is None else key_mask[:, None, :, None]
    if keep is not None:
        phi_k = phi_k * keep
    k_BGTCD, v_BGTCD, phi_k_BGTCD = (pad(x[:, :, start:], (0, 0, 0, rest)).unflatten(2, (T, C)) for x in (k, v, phi_k))

    near = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    if keep is not None:
        near = near & pad(keep[:, :, start:], (0, 0, 0, rest)).unflatten(2, (T, C)).mT.unsqueeze(2)
    scores = (scale * q_BGSTCD @ k_BGTCD.mT.unsqueeze(2)).masked_fill(~near, torch.finfo(wide).min)
    local = scores.softmax(-1).masked_fill(~near, 0) @ v_BGTCD.unsqueeze(2)

    ends, old = phi_k_BGTCD[:, :, :-1], phi_k[:, :, :start]
    state_BGTDD = torch.cat([(old.mT @ v[:, :, :start]).unsqueeze(2), ends.mT @ v_BGTCD[:, :, :-1]], 2).cumsum(2)
    total_BGTD = torch.cat([old.sum(2, keepdim=True), ends.sum(3)], 2).cumsum(2)
    weight = phi_q @ total_BGTD[:, :, None, :, :, None]
    memory = _linear.share(phi_q, weight) @ state_BGTDD.unsqueeze(2)

    memory, local = (x.flatten(3, 4).flatten(1, 2)[:, :, first:first + N] for x in (memory, local))
    return _gated(memory, local, params["gate"], *_presence(N, M, segment, q.device, key_mask)).to(q.dtype)
