"""The formula that kernel attention shares, for its oracles alone: a mean of values weighted by any positive kernel.

out_i = sum_j w_ij v_j / sum_j w_ij over the keys that i sees. Written to be read, in blocks of rows that are computed
again for the gradient, so memory stays bounded; shares no code with the backends.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

_BLOCK = {"cpu": 2 ** 22, "cuda": 2 ** 27}  # weights held at once


def weighted_mean(weights: Callable[..., torch.Tensor], q_BHNR: torch.Tensor, k_BGMR: torch.Tensor,
                  v_BGMD: torch.Tensor, *, causal: bool, key_mask: torch.Tensor | None) -> torch.Tensor:
    """The mean of v by `weights(q, k, seen, i, j)`, (B, H, rows, M), which need be no more than in proportion
    within a row; zeros where a query sees nothing -> (B, H, N, D).

    `seen` is bool (B or 1, 1, rows, M); i and j are positions, the last query's that of the last key. Weights are
    normalised in float32 or wider, as torch's softmax does.
    """
    B, H, N = q_BHNR.shape[:3]
    G, M = k_BGMR.shape[1:3]
    k, v = (x.repeat_interleave(H // G, dim=1) for x in (k_BGMR, v_BGMD))
    j = torch.arange(M, device=v.device)

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        seen = (j <= i if causal else torch.ones_like(j <= i))[None, None]
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        w = weights(q, k, seen, i, j).masked_fill(~seen, 0)
        total = w.sum(-1, keepdim=True, dtype=torch.promote_types(w.dtype, torch.float32))
        return (w / total.masked_fill(~seen.any(-1, keepdim=True), 1)).to(v.dtype) @ v

    rows = max(1, _BLOCK.get(v.device.type, 2 ** 22) // (B * H * M))
    i = torch.arange(M - N, M, device=v.device)[:, None]
    parts = [checkpoint(block, q_BHNR[:, :, r:r + rows], k, v, i[r:r + rows], use_reentrant=False,
                        preserve_rng_state=False) for r in range(0, N, rows)]
    return torch.cat(parts, dim=2)
