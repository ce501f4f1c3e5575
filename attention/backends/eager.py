"""Attention in plain PyTorch: the n x n matrix of scores, its softmax, its product with v."""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import PLAIN, Backend, Case, score_bytes
from attention.backends.product import product


class Eager(Backend):
    """This backend computes the formula step by step, on any device and in any dtype."""

    name = "eager"
    kernels = PLAIN

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend

    def peak_bytes(self, case: Case) -> int:
        wide = max(1.0, 4 / case.dtype.itemsize)  # the softmax is in float32 or wider
        return super().peak_bytes(case) + score_bytes(case, forward=2 + wide, backward=4 + 2 * wide)


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, bias: Callable | None = None,
           key_mask: torch.Tensor | None = None, softcap: float | None = None,
           sinks_H: torch.Tensor | None = None) -> torch.Tensor:
    """Computes softmax(scale q kᵀ + bias, masked) v -> (B, H, N, D); scores and softmax are in float32 or wider."""
    B, H, N, D = q_BHND.shape
    G, M = k_BGMD.shape[1:3]
    # Heads that share keys become rows of one product: no copy of k and v.
    q = q_BHND.reshape(B, G, H // G * N, D)
    scores = product(q, k_BGMD.mT, scale).view(B, H, N, M)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        heads = torch.arange(H, device=q.device)[:, None, None]
        scores = scores + bias(heads, *masks.positions(N, M, q.device)).to(scores.dtype)
    mask = masks.dense(band, N, M, q.device, key_mask, visible, H)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if sinks_H is None:
        weights = scores.softmax(-1)
    else:  # one more column takes its share of the weight and has no value
        sinks = sinks_H.to(scores.dtype)[:, None, None].expand(B, H, N, 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :M]
    if mask is not None and may_be_blind(band, N, M, key_mask, visible):
        weights = torch.where(mask.any(-1, keepdim=True), weights, 0)
    return product(weights.view(B, G, H // G * N, M), v_BGMD).view(B, H, N, -1).to(q.dtype)


def may_be_blind(band: masks.Band, n: int, m: int, key_mask: torch.Tensor | None,
                 visible: masks.Visible | None = None) -> bool:
    """Tells whether a query may see no key at all."""
    return key_mask is not None or visible is not None or (n > m and band != masks.FULL)


eager = Eager()
