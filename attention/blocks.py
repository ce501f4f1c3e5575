"""Sequences cut into blocks of one size, the last filled up with zeros. Suffixes: T blocks, C positions of a block.

For variants alone: the oracles cut for themselves.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad


def cut(x_BHND: torch.Tensor, size: int) -> torch.Tensor:
    """-> (B, H, T, C, D), C = `size`."""
    n = x_BHND.shape[2]
    blocks = -(-n // size)
    return pad(x_BHND, (0, 0, 0, blocks * size - n)).unflatten(2, (blocks, size))


def join(x_BHTCD: torch.Tensor, n: int) -> torch.Tensor:
    """The first `n` positions -> (B, H, N, D)."""
    return x_BHTCD.flatten(2, 3)[:, :, :n]


def real(n: int, size: int, device: torch.device) -> torch.Tensor:
    """Bool (T, C): the positions that are no filling."""
    blocks = -(-n // size)
    return torch.arange(blocks * size, device=device).view(blocks, size) < n


def attend_within(attend: Callable, q_BHTCD: torch.Tensor, k_BHTED: torch.Tensor, v_BHTED: torch.Tensor, *,
                  scale: float, keep_TE: torch.Tensor | None) -> torch.Tensor:
    """Softmax attention of each block's queries on that block's keys, those to `keep_TE` -> (B, H, T, C, D).

    The blocks are sequences of their own to `attend`, so any backend serves.
    """
    B, _, T = q_BHTCD.shape[:3]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTCD, k_BHTED, v_BHTED))
    key_mask = None if keep_TE is None else keep_TE.repeat(B, 1)
    return attend(q, k, v, scale=scale, key_mask=key_mask).unflatten(0, (B, T)).transpose(1, 2)
