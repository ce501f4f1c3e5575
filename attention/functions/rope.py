"""Rotary position embedding rotates q and k by angles of their positions (Su et al., RoFormer, arXiv 2104.09864).

Channel c of the first half of a head and channel c of the second half are a pair (the layout of GPT-NeoX and Llama; the
paper pairs neighbours, which is the same up to the order of channels). At position p a pair is rotated by
p base^(-2c/D), so a score depends on the distance alone. The last channel of an odd head stays as it is. Any kernel of
softmax attends to the result.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.compiling import compiled_on_gpu
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.fused import fused, whole
from attention.backends.sdpa import sdpa
from attention.backends.tiled import tiled
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool, base: float) -> int:
    """Counts the visible query-key pairs of one head."""
    return all_pairs(n, m, causal)


def validate(base: float, function: str = "rope") -> None:
    """Raises ValueError unless `base` is a number above 1."""
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1 < base < float("inf"):
        raise ValueError(f"{function}: base={base!r} must be a number > 1")


def _rotation(first: int, length: int, width: int, base: float, wide: torch.dtype,
              device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes cos and sin (length, width / 2) of positions from `first` on. Late positions need angles in float64."""
    position = torch.arange(first, first + length, dtype=torch.float64, device=device)
    channel = torch.arange(0, width, 2, dtype=torch.float64, device=device)
    angle = position[:, None] * base ** (-channel / width)
    return angle.cos().to(wide), angle.sin().to(wide)


@functools.lru_cache(maxsize=16)
def _stored_rotation(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):  # a later call may want gradients
        return _rotation(*arguments)


Table = tuple[torch.Tensor, torch.Tensor]


def table(x_BHND: torch.Tensor, first: int, base: float) -> Table:
    """Gives cos and sin (N, D // 2) for the rows of x, whose positions begin at `first`, in float32 or wider."""
    rotation = _rotation if torch.compiler.is_compiling() else _stored_rotation  # dynamo can't trace a cache
    wide = torch.promote_types(x_BHND.dtype, torch.float32)
    return rotation(first, x_BHND.shape[2], x_BHND.shape[3] // 2 * 2, float(base), wide, x_BHND.device)


@compiled_on_gpu
def turn(x_BHND: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs of x by the angles of a table -> (B, H, N, D); computed in the dtype of the table."""
    half = cos.shape[1]
    a, b, odd = x_BHND.to(cos.dtype).tensor_split((half, 2 * half), -1)
    return torch.cat([x.to(x_BHND.dtype) for x in (a * cos - b * sin, b * cos + a * sin, odd)], -1)


def rotate(x_BHND: torch.Tensor, first: int, base: float) -> torch.Tensor:
    """Rotates the rows of x by their positions, from `first` on -> (B, H, N, D); computed in float32 or wider."""
    return turn(x_BHND, *table(x_BHND, first, base))


def oracle_rotate(x: torch.Tensor, position: torch.Tensor, base: float) -> torch.Tensor:
    """Computes the paper's equation 12 for the oracles: a product of complex numbers, on the pairs (c, c + D/2)."""
    half = x.shape[-1] // 2
    theta = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = torch.outer(position.double(), theta)
    a, b = x[..., :half], x[..., half:2 * half]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    real, imaginary = a * cos - b * sin, a * sin + b * cos  # (a + ib) e^(i angle)
    return torch.cat([real, imaginary, x[..., 2 * half:]], -1)


@register("rope", kind="structured", paper="arXiv 2104.09864", pairs=pairs, options={"base": 10000.0},
          validate=validate, values=True,
          test_values={"base": (10000.0, 100.0)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, base: float) -> torch.Tensor:
    """Computes softmax attention of q and k, rotated by their positions."""
    n, m = q.shape[2], k.shape[2]
    i, j = torch.arange(m - n, m, device=q.device), torch.arange(m, device=q.device)
    return softmax_attention(oracle_rotate(q.to(dtype), i, base), oracle_rotate(k.to(dtype), j, base), v, scale=scale,
                             key_mask=key_mask, dtype=dtype, visible=(lambda i, j: j <= i) if causal else None)


def angles(q: torch.Tensor, k: torch.Tensor, base: float) -> tuple[Table, Table]:
    """Gives the tables of q, whose last position is that of the last key, and of k."""
    return table(q, k.shape[2] - q.shape[2], base), table(k, 0, base)


def rotated(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
            key_mask: torch.Tensor | None, tables: tuple[Table, Table]) -> torch.Tensor:
    """Rotates q and k by their tables and asks the backend for softmax."""
    q, k = (turn(x, *table) for x, table in zip((q, k), tables, strict=True))
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)


@register("rope", backends=[eager, sdpa, fa2, fa3, fa4, flex, tiled])
def rope(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, base: float,
         **arguments: Any) -> torch.Tensor:
    """Computes softmax attention of rotated queries and keys."""
    return rotated(attend, q, k, v, tables=angles(q, k, base), **arguments)


@register("rope", backends=[fused])
def rope_fused(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, base: float,
               **arguments: Any) -> torch.Tensor:
    """Compiles the rotations with the kernel, but not the angles, which each number would compute in float64 again."""
    return whole(rotated, sdpa)(attend, q, k, v, tables=angles(q, k, base), **arguments)
