"""The formula of kernel attention, for oracles only: a mean of values with the weights of any positive kernel.

out_i = sum_j w_ij v_j / sum_j w_ij over the keys that i sees. The code is written to be read and shares nothing with
the backends. Blocks of rows are computed again for the gradient, so memory stays bounded.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

_BLOCK = {"cpu": 2 ** 22, "cuda": 2 ** 27}  # weights in memory at once


def weighted_mean(weights: Callable[..., torch.Tensor], q_BHNR: torch.Tensor, k_BGMR: torch.Tensor,
                  v_BGMD: torch.Tensor, *, causal: bool, key_mask: torch.Tensor | None) -> torch.Tensor:
    """Computes the mean of v with the weights of a kernel -> (B, H, N, D); zeros where a query sees no key.

    `weights(q, k, mask, i, j)` gives (B, H, rows, M); within a row they need only be in proportion. `mask` is bool
    (B or 1, 1, rows, M), True = visible; i and j are positions, and the last query stands at the last key. Weights are
    normalised in float32 or wider, as torch's softmax does.
    """
    B, H, N = q_BHNR.shape[:3]
    G, M = k_BGMR.shape[1:3]
    k, v = (x.repeat_interleave(H // G, dim=1) for x in (k_BGMR, v_BGMD))
    j = torch.arange(M, device=v.device)

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        mask = (j <= i if causal else torch.ones_like(j <= i))[None, None]
        if key_mask is not None:
            mask = mask & key_mask[:, None, None, :]
        w = weights(q, k, mask, i, j).masked_fill(~mask, 0)
        total = w.sum(-1, keepdim=True, dtype=torch.promote_types(w.dtype, torch.float32))
        return (w / total.masked_fill(~mask.any(-1, keepdim=True), 1)).to(v.dtype) @ v

    rows = max(1, _BLOCK.get(v.device.type, 2 ** 22) // (B * H * M))
    i = torch.arange(M - N, M, device=v.device)[:, None]
    parts = [checkpoint(block, q_BHNR[:, :, r:r + rows], k, v, i[r:r + rows], use_reentrant=False,
                        preserve_rng_state=False) for r in range(0, N, rows)]
    return torch.cat(parts, dim=2)
