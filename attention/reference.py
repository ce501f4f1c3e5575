"""The only oracle of softmax attention: the formula as it stands in the paper, in float64.

Vaswani et al., Attention Is All You Need, arXiv 1706.03762, equation 1, with grouped key/value heads (arXiv
2305.13245). The code is written to be read and shares nothing with the backends. It works through blocks of heads and
rows and computes each block again for the gradient, so memory stays bounded.
"""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

Positions = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Bias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_BLOCK = {"cpu": 2 ** 24, "cuda": 2 ** 28}  # scores in memory at once


def softmax_attention(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *,
                      scale: float | None = None, visible: Positions | None = None, bias: Bias | None = None,
                      key_mask: torch.Tensor | None = None, softcap: float | None = None,
                      sinks_H: torch.Tensor | None = None,
                      dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Computes softmax(scale q kᵀ + bias) v over the visible keys in `dtype` -> (B, H, N, D).

    `visible(i, j)` is bool and `bias(h, i, j)` a number, for head h, query position i and key position j; the last
    query stands at the last key. `key_mask` is bool (B, M), True = keep. A row that sees no key gives zeros. `scale` is
    1/sqrt(D) by default. `softcap` c turns a score s into c tanh(s / c). `sinks_H` add e^sink to the sum by which the
    weights of a row are divided.
    """
    B, H, N, D = q_BHND.shape
    G, M = k_BGMD.shape[1:3]
    R = H // G  # query heads that share a key/value head
    scale = D ** -0.5 if scale is None else scale
    q = q_BHND.to(dtype).reshape(B * G, R, N, D)
    k, v = (x.to(dtype).reshape(B * G, 1, M, x.shape[-1]) for x in (k_BGMD, v_BGMD))
    head = (torch.arange(B * G, device=q.device) % G * R)[:, None] + torch.arange(R, device=q.device)
    keep = None if key_mask is None else key_mask.repeat_interleave(G, 0)[:, None, None, :]
    i = torch.arange(N, device=q.device)[:, None] + (M - N)
    j = torch.arange(M, device=q.device)

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: slice, rows: slice) -> torch.Tensor:
        scores = scale * (q @ k.transpose(-1, -2))
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias(head[groups, :, None, None], i[rows], j).to(dtype)
        mask = torch.ones(1, 1, dtype=torch.bool, device=q.device) if visible is None else visible(i[rows], j)
        if keep is not None:
            mask = mask & keep[groups]
        blind = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~(mask | blind), -torch.inf)
        if sinks_H is not None:
            sinks = sinks_H.to(dtype)[head[groups, :, None, None]].expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, sinks], -1)
        weights = scores.softmax(-1)[..., :M].masked_fill(blind, 0)
        return weights @ v

    run = block
    if torch.is_grad_enabled():  # the first checkpoint imports the compiler, which takes two seconds
        run = functools.partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
    size = _BLOCK.get(q.device.type, 2 ** 24)
    per_group = max(1, size // max(1, R * N * M))
    per_row = N if size >= R * N * M else max(1, size // (R * M))
    parts = []
    for g in range(0, B * G, per_group):
        groups = slice(g, g + per_group)
        rows = [run(q[groups, :, r:r + per_row], k[groups], v[groups], groups, slice(r, r + per_row))
                for r in range(0, N, per_row)]
        parts.append(torch.cat(rows, dim=2))
    return torch.cat(parts).reshape(B, H, N, v.shape[-1])
