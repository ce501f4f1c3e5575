"""Recurrent memory is exact attention within a segment beside a state of fixed size for all earlier segments
(Munkhdalai et al., Leave No Context Behind, arXiv 2404.07143: Infini-attention with the linear update).

out = g memory + (1 - g) local with g = sigmoid(gate); each head has one learned gate, which starts at 0. local is
causal softmax attention within a segment of `segment` tokens. memory is φ(q) M / φ(q)·z with φ = elu + 1, where M and z
are the sums of φ(k) vᵀ and φ(k) over all earlier segments. If a query sees no key in one of the two parts, it gives the
other part alone, so a segment of the whole length is softmax attention. The function is always causal.
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
from attention.function import Parameters, require_whole
from attention.functions import _linear
from attention.functions._weighted import weighted_mean
from attention.reference import softmax_attention
from attention.registry import register

SEGMENT = 256


def validate(segment: int) -> None:
    """Raises ValueError unless `segment` is a whole number of at least 1."""
    require_whole("recurrent-memory", segment=segment)


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Shortens the segment so that a probe's few tokens make two."""
    return {"segment": min(options["segment"], max(1, m // 2))}


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool,
               segment: int) -> Parameters:
    """Builds one gate for each head at 0, so memory and segment have the same share."""
    return {"gate": nn.Parameter(torch.zeros(heads, dtype=torch.float64))}


def flops(n: int, m: int, head_dim: int, causal: bool, segment: int) -> int:
    """Counts the FLOPs of one head's forward pass: 4 D per pair in a segment, 2 D² per query and key of the memory."""
    segment = min(segment, m)
    start = (m - n) // segment * segment
    rows = -(-(m - start) // segment) * segment
    return 4 * head_dim * rows * segment + 2 * head_dim * (head_dim * (rows + start + rows - segment) + rows)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: queries, keys and values in float32 or wider, the scores, and a state per segment."""
    segment, wide = min(dict(case.options).get("segment", SEGMENT), case.m), max(4, case.dtype.itemsize)
    rows, keys = case.heads * case.n, case.kv_heads * case.m
    tokens = rows * (4 * case.head_dim + 3 * segment) + keys * 3 * case.head_dim
    states = 2 * keys // segment * case.head_dim ** 2
    return Backend().peak_bytes(case) + wide * (tokens + states) * (2 if case.grad else 1)


@register("recurrent-memory", kind="approximate", paper="arXiv 2404.07143", flops=flops, cost="n", default=False,
          flash=False, options={"segment": SEGMENT}, validate=validate, full=False, few=few, parameters=parameters,
          test_values={"segment": (16, 1, 64, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, segment: int, params: Parameters) -> torch.Tensor:
    """Computes equations 2 and 3 and the gate of equation 10; both parts are weighted means of values."""
    q, k, v = (x.to(dtype) for x in (q, k, v))
    n, m = q.shape[2], k.shape[2]
    local = softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                              visible=lambda i, j: (j <= i) & (j // segment == i // segment))
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (q, k))

    def earlier(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        weights = (q @ k.mT).masked_fill(~(mask & (j // segment < i // segment)), 0)
        none = weights.sum(-1, keepdim=True) == 0
        return torch.where(none, 1, weights)  # any number will do, since the gate of such a row is 0: see `empty`

    memory = weighted_mean(earlier, phi_q, phi_k, v, causal=True, key_mask=key_mask)
    i, j = torch.arange(m - n, m, device=q.device)[:, None], torch.arange(m, device=q.device)
    keep = torch.ones(1, 1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask[:, None]
    empty = ~(keep & (j // segment < i // segment)).any(-1)[:, None, :, None]
    blind = ~(keep & (j // segment == i // segment) & (j <= i)).any(-1)[:, None, :, None]
    gate = params["gate"].sigmoid()[:, None, None].expand(q.shape[0], -1, n, 1)
    gate = gate.masked_fill(blind, 1).masked_fill(empty, 0)
    return gate * memory + (1 - gate) * local


def _mix(memory: torch.Tensor, local: torch.Tensor, gate_H: torch.Tensor, remembers: torch.Tensor,
         sees: torch.Tensor) -> torch.Tensor:
    """Mixes memory and local (B, H, N, D) by the gate.

    `remembers` and `sees`, bool (B or 1, 1, N, 1), say whether memory and segment hold a key for the query.
    """
    gate = gate_H.to(local.dtype).sigmoid()[:, None, None]
    share = torch.where(remembers, torch.where(sees, gate, 1), 0)
    return torch.lerp(local, memory, share)


def _presence(n: int, m: int, segment: int, device: torch.device,
              key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Tells whether a key stands before a query's segment, and one in it up to the query: bool (B or 1, 1, N, 1)."""
    keep = torch.ones(1, m, dtype=torch.long, device=device) if key_mask is None else key_mask.long()
    upto = pad(keep.cumsum(1), (1, 0))
    own = torch.arange(m - n, m, device=device)
    before = upto[:, own // segment * segment]
    return (before > 0)[:, None, :, None], (upto[:, own + 1] > before)[:, None, :, None]


@register("recurrent-memory", backends=[eager])
def recurrent_memory(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                     key_mask: torch.Tensor | None, segment: int, params: Parameters) -> torch.Tensor:
    """Computes two n x m matrices, which are easy to read: softmax within segments, kernel weights before them."""
    N, M, G = q.shape[2], k.shape[2], k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    i, j = masks.positions(N, M, q.device)
    groups = (G, q.shape[1] // G)
    mask = j <= i if key_mask is None else (j <= i) & key_mask[:, None, :]
    near = (mask & (i // segment == j // segment)).view(-1, 1, 1, N, M)
    queries, keys, values = q.to(wide).unflatten(1, groups), k.to(wide).unsqueeze(2), v.to(wide).unsqueeze(2)
    scores = (scale * queries @ keys.mT).masked_fill(~near, torch.finfo(wide).min)
    local = scores.softmax(-1).masked_fill(~near, 0) @ values
    weights = ((elu(queries) + 1) @ (elu(keys) + 1).mT)
    weights = weights.masked_fill(~(mask & (j // segment < i // segment)).view(-1, 1, 1, N, M), 0)
    memory = _linear.share(weights, weights.sum(-1, keepdim=True)) @ values
    presence = _presence(N, M, segment, q.device, key_mask)
    return _mix(memory.flatten(1, 2), local.flatten(1, 2), params["gate"], *presence).to(q.dtype)


@register("recurrent-memory", backends=[chunked], peak_bytes=peak_bytes)
def by_segments(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                key_mask: torch.Tensor | None, segment: int, params: Parameters) -> torch.Tensor:
    """Computes all segments at once: softmax within each, and for each the sums over the earlier ones."""
    N, M, G = q.shape[2], k.shape[2], k.shape[1]
    C = min(segment, M)
    start = (M - N) // C * C  # the start of the first query's segment
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
    return _mix(memory, local, params["gate"], *_presence(N, M, segment, q.device, key_mask)).to(q.dtype)
