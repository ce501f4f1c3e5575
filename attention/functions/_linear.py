"""Attention with weights φ(q)·φ(k) in linear time: it forms sums of φ(k) vᵀ instead of an n x n matrix.

Transformers are RNNs (Katharopoulos et al., arXiv 2006.16236), section 3.3. Prefix sums are computed chunk by chunk:
the masked kernel matrix within a chunk, one sum for all chunks before it. More shape suffixes: R features, T chunks,
C positions of a chunk, S query heads that share a key/value head.
"""
from __future__ import annotations

import torch
from torch.nn.functional import pad

from attention import masks
from attention.backends.base import Backend, Case

CHUNK = 128
NEVER = -1e30  # stands for log 0; it is finite, so differences of two are finite
TINY = 2.0 ** -100  # a sum of weights below this has no correct digits


def share(parts: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Divides weights by their total; where the total is nothing, the share is 0.

    Weights are divided before they are multiplied by values. The gradient is then a difference for each weight, not a
    difference of two large sums.
    """
    positive = total > TINY
    return torch.where(positive, parts / torch.where(positive, total, 1), 0)


def full(q_BHNR: torch.Tensor, k_BGMR: torch.Tensor, v_BGMD: torch.Tensor) -> torch.Tensor:
    """Computes attention of every query on every key -> (B, H, N, D), with one mean value of each feature."""
    B, H, N, R = q_BHNR.shape
    G = k_BGMR.shape[1]
    total_BG1R = k_BGMR.sum(2, keepdim=True)
    means_BGRD = share(k_BGMR, total_BG1R).mT @ v_BGMD
    weights = q_BHNR.reshape(B, G, H // G * N, R) * total_BG1R
    return (share(weights, weights.sum(-1, keepdim=True)) @ means_BGRD).view(B, H, N, -1)


def quadratic(q_BHNR: torch.Tensor, k_BGMR: torch.Tensor, v_BGMD: torch.Tensor, log_BGM: torch.Tensor | None = None, *,
              causal: bool) -> torch.Tensor:
    """Computes the same as `full` and `causal` by the n x m kernel matrix, which is easy to read -> (B, H, N, D)."""
    B, H, N, _ = q_BHNR.shape
    G, M = k_BGMR.shape[1:3]
    mask = masks.dense(masks.band(causal), N, M, q_BHNR.device)
    weights = q_BHNR.unflatten(1, (G, H // G)) @ k_BGMR.mT.unsqueeze(2)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0)
    if log_BGM is not None:
        log_BGM = log_BGM.detach()
        largest = log_BGM.cummax(2).values[:, :, M - N:] if causal else log_BGM.amax(2, keepdim=True)
        weights = weights * (log_BGM[:, :, None] - largest[..., None]).clamp(max=0).exp().unsqueeze(2)
    return (share(weights, weights.sum(-1, keepdim=True)) @ v_BGMD.unsqueeze(2)).view(B, H, N, -1)


def causal(q_BHNR: torch.Tensor, k_BGMR: torch.Tensor, v_BGMD: torch.Tensor,
           log_BGM: torch.Tensor | None = None) -> torch.Tensor:
    """Computes attention of every query on the keys up to its own, N <= M -> (B, H, N, D).

    `log_BGM` multiplies the weights of key j by e^log_j; no gradient flows into it. Weights are relative to the largest
    one so far, so none overflows, and no later key changes a result, not even its rounding.
    """
    B, H, N, _ = q_BHNR.shape
    G, M = k_BGMR.shape[1:3]
    C = min(CHUNK, N)
    T, past = -(-N // C), M - N

    def chunks(x: torch.Tensor) -> torch.Tensor:
        return pad(x, (0, 0, 0, T * C - N)).unflatten(-2, (T, C))

    q_BGSTCR = chunks(q_BHNR.unflatten(1, (G, H // G)))
    k_BGTCR, v_BGTCD = chunks(k_BGMR[:, :, past:]), chunks(v_BGMD[:, :, past:])
    within = (q_BGSTCR @ k_BGTCR.mT.unsqueeze(2)).tril()
    k_past, v_past, k_ends, fade, decay_BGTT = k_BGMR[:, :, :past], v_BGMD[:, :, :past], k_BGTCR[:, :, :-1], None, None
    if log_BGM is not None:
        log_BGM = log_BGM.detach()
        top_BGM = log_BGM.cummax(2).values
        log, top = (chunks(x[:, :, past:, None]).squeeze(-1) for x in (log_BGM, top_BGM))
        before = pad(top_BGM, (1, 0), value=NEVER)[:, :, past:M:C]  # the largest before each chunk
        k_past = k_past * (log_BGM[:, :, :past] - before[:, :, :1]).exp().unsqueeze(-1)
        k_ends = k_ends * (log[:, :, :-1] - before[:, :, 1:, None]).exp().unsqueeze(-1)
        decay_BGTT = (before[:, :, None] - before[..., None]).clamp(max=0).exp().tril()
        fade = (before[..., None] - top).clamp(max=0).exp().unsqueeze(2)
        within = within * (log[..., None, :] - top[..., None]).clamp(max=0).exp().unsqueeze(2)

    def carry(first: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Sums, for each chunk, what stands before it: `first`, which is before all chunks, and the earlier chunks."""
        sums = torch.cat([first.unsqueeze(2), others], 2)
        return sums.cumsum(2) if decay_BGTT is None else (decay_BGTT @ sums.flatten(3)).view_as(sums)

    state_BGTRD = carry(k_past.mT @ v_past, k_ends.mT @ v_BGTCD[:, :, :-1])
    total_BGTR = carry(k_past.sum(2), k_ends.sum(3))
    if fade is not None:
        q_BGSTCR = q_BGSTCR * fade.unsqueeze(-1)
    total = q_BGSTCR @ total_BGTR[:, :, None, :, :, None] + within.sum(-1, keepdim=True)
    out = share(q_BGSTCR, total) @ state_BGTRD.unsqueeze(2) + share(within, total) @ v_BGTCD.unsqueeze(2)
    return out.flatten(3, 4)[:, :, :, :N].reshape(B, H, N, -1)


def peak_bytes(case: Case, features: int) -> int:
    """Predicts the peak bytes of one sequence: features, matrices and sums of the chunks, in float32 or wider."""
    wide = max(4, case.dtype.itemsize)
    rows, keys = case.heads * case.n, case.kv_heads * case.m
    n = features * (2 * rows + 2 * keys) + case.head_dim * (3 * rows + keys)
    if case.causal:
        n += 2 * rows * min(CHUNK, case.n) + 2 * keys // CHUNK * features * case.head_dim
    return Backend().peak_bytes(case) + wide * n * (2 if case.grad else 1)


def flops(n: int, m: int, head_dim: int, causal: bool, features: int) -> int:
    """Counts the FLOPs of one head's forward pass, without φ: 2 R D for each query and each key.

    Causal, each chunk's kernel matrix, its product with v and the total weights are added, and the keys of the last
    chunk are in no sum.
    """
    if not causal:
        return 2 * features * head_dim * (n + m)
    chunk = min(CHUNK, n)
    padded = -(-n // chunk) * chunk
    sums = 2 * features * head_dim * (padded + m - n + padded - chunk) + 2 * features * padded
    return sums + 2 * padded * chunk * (features + head_dim)
