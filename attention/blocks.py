"""Cuts sequences into blocks of one size; zeros fill up the last block.

Shape suffixes: T blocks, C positions of a block. Only variants use this file; the oracles cut sequences themselves.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad


def cut(x_BHND: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts a sequence into blocks of `size` positions -> (B, H, T, C, D)."""
    n = x_BHND.shape[2]
    blocks = -(-n // size)
    return pad(x_BHND, (0, 0, 0, blocks * size - n)).unflatten(2, (blocks, size))


def join(x_BHTCD: torch.Tensor, n: int) -> torch.Tensor:
    """Joins blocks into a sequence of their first `n` positions -> (B, H, N, D)."""
    return x_BHTCD.flatten(2, 3)[:, :, :n]


def real(n: int, size: int, device: torch.device) -> torch.Tensor:
    """Gives the mask, bool (T, C), of the positions that belong to the sequence, not to the filling."""
    blocks = -(-n // size)
    return torch.arange(blocks * size, device=device).view(blocks, size) < n


def attend_within(attend: Callable, q_BHTCD: torch.Tensor, k_BHTED: torch.Tensor, v_BHTED: torch.Tensor, *,
                  scale: float, keep_TE: torch.Tensor | None) -> torch.Tensor:
    """Computes softmax attention of each block's queries on that block's keys -> (B, H, T, C, D).

    `keep_TE` is bool, True = keep the key. `attend` takes each block for a sequence, so any backend can be used.
    """
    B, _, T = q_BHTCD.shape[:3]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTCD, k_BHTED, v_BHTED))
    key_mask = None if keep_TE is None else keep_TE.repeat(B, 1)
    return attend(q, k, v, scale=scale, key_mask=key_mask).unflatten(0, (B, T)).transpose(1, 2)
