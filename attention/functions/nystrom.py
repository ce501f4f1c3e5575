"""Nyströmformer computes attention through landmarks (Xiong et al., arXiv 2102.03902, equation 13).

out = softmax(q k̃ᵀ) Z softmax(q̃ kᵀ) v, with scaled scores. q̃ and k̃ are the means of `landmarks` segments of q and k. Z
is the pseudo-inverse of softmax(q̃ k̃ᵀ) by `iterations` steps of section 3.2. Each matrix starts the iteration as that
section says (by default the authors' code divides by the largest number of the batch instead). Segments are as even as
the length allows. With as many landmarks as tokens it is softmax attention. As in the authors' code, padded tokens
count as zeros in the means. The code's convolution of v beside the attention is left out.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.function import require_whole
from attention.reference import softmax_attention
from attention.registry import register

LANDMARKS = 64


def validate(landmarks: int, iterations: int) -> None:
    """Raises ValueError unless both are whole numbers of at least 1."""
    require_whole("nystrom", landmarks=landmarks, iterations=iterations)


def limits(case: Case) -> str | None:
    """Refuses more landmarks than tokens."""
    landmarks = dict(case.options).get("landmarks", LANDMARKS)
    return f"landmarks={landmarks} must be at most the {case.n} tokens" if landmarks > case.n else None


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Lowers the number of landmarks to that of a probe's tokens."""
    return {**options, "landmarks": min(options["landmarks"], m)}


def flops(n: int, m: int, head_dim: int, causal: bool, landmarks: int, iterations: int) -> int:
    """Counts the FLOPs of one head's forward pass: means, three kernels, the pseudo-inverse, products with values."""
    means, kernels = 2 * landmarks * (n + m) * head_dim, 2 * landmarks * (n + m + landmarks) * head_dim
    values = 2 * landmarks * (n + m + landmarks) * head_dim
    return means + kernels + values + iterations * 4 * 2 * landmarks ** 3


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: copies of q and k, n x landmarks scores, and the matrices of the iteration."""
    landmarks, wide = dict(case.options).get("landmarks", LANDMARKS), max(4, case.dtype.itemsize)
    tokens = case.heads * case.n * (2 * case.head_dim * wide + 3 * landmarks * wide)
    return Backend().peak_bytes(case) + (tokens + 8 * case.heads * landmarks ** 2 * wide) * (2 if case.grad else 1)


@register("nystrom", kind="approximate", paper="arXiv 2102.03902", flops=flops, cost="n", causal=False, cross=False,
          convex=False, default=False, options={"landmarks": LANDMARKS, "iterations": 6}, validate=validate,
          limits=limits, few=few,
          test_values={"landmarks": (16, 1, 7)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, landmarks: int, iterations: int) -> torch.Tensor:
    """Computes equation 13 for each head; the pseudo-inverse is in float32 or wider."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    share, n = q.shape[1] // k.shape[1], q.shape[2]
    if landmarks == n:
        return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype)
    keep = 1 if key_mask is None else key_mask[:, None, :, None]
    q, k = q.to(dtype) * keep, k.to(dtype).repeat_interleave(share, dim=1) * keep
    v = v.repeat_interleave(share, dim=1)
    edges = [s * n // landmarks for s in range(landmarks + 1)]
    q_marks, k_marks = (torch.stack([x[:, :, a:b].mean(2) for a, b in itertools.pairwise(edges)], 2)
                        for x in (q, k))
    A = (scale * q_marks @ k_marks.mT).to(torch.promote_types(dtype, torch.float32)).softmax(-1)
    one = torch.eye(landmarks, dtype=A.dtype, device=A.device)
    Z = A.mT / (A.sum(-2).amax(-1) * A.sum(-1).amax(-1))[..., None, None]
    for _ in range(iterations):
        AZ = A @ Z
        Z = Z @ (13 * one - AZ @ (15 * one - AZ @ (7 * one - AZ))) / 4
    read = softmax_attention(q_marks, k, v, scale=scale, key_mask=key_mask, dtype=dtype)
    return softmax_attention(q, k_marks, (Z @ read.to(Z.dtype)).to(dtype), scale=scale, dtype=dtype)


def segments(n: int, landmarks: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Builds the matrix (landmarks, N) whose product with a sequence is the mean of each segment."""
    edges = torch.arange(landmarks + 1, device=device) * n // landmarks
    token = torch.arange(n, device=device)
    inside = (token >= edges[:-1, None]) & (token < edges[1:, None])
    return inside.to(dtype) / inside.sum(1, keepdim=True)


def pseudo_inverse(A: torch.Tensor, iterations: int) -> torch.Tensor:
    """Computes the pseudo-inverse of (..., L, L) matrices whose rows sum to one, by the iteration of section 3.2."""
    one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    Z = A.mT / A.sum(-2).amax(-1)[..., None, None]
    for _ in range(iterations):
        AZ = A @ Z
        Z = 0.25 * Z @ (13 * one - AZ @ (15 * one - AZ @ (7 * one - AZ)))
    return Z


@register("nystrom", backends=[eager, sdpa, fa2, flex], peak_bytes=peak_bytes)
def nystrom(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
            key_mask: torch.Tensor | None, landmarks: int, iterations: int) -> torch.Tensor:
    """Asks the backend for two attentions: the landmarks on all keys, and all queries on the landmarks."""
    n, share = q.shape[2], q.shape[1] // k.shape[1]
    if landmarks == n:
        return attend(q, k, v, scale=scale, key_mask=key_mask)
    if key_mask is not None:
        q, k = (x * key_mask[:, None, :, None] for x in (q, k))
    wide = torch.promote_types(q.dtype, torch.float32)
    mean = segments(n, landmarks, q.device, wide)
    q_marks, k_marks = mean @ q.to(wide), (mean @ k.to(wide)).repeat_interleave(share, dim=1)
    Z = pseudo_inverse((scale * q_marks @ k_marks.mT).softmax(-1), iterations)
    q_marks, k_marks = q_marks.to(q.dtype), k_marks.to(q.dtype)
    read = attend(q_marks, k, v, scale=scale, key_mask=key_mask)
    return attend(q, k_marks, (Z @ read.to(wide)).to(q.dtype), scale=scale)
