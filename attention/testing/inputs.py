"""Draws inputs by a seed: normal ones, and ones that make every key matter."""
from __future__ import annotations

import math

import torch

SIZES = (1.0, 2.0, 0.5)  # of values and, by their root, of flat queries: rows of very different size


def inputs(*, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None, head_dim: int,
           value_dim: int | None = None, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
           seed: int = 0, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (B, H, N, D), k (B, G, M, D), v (B, G, M, value_dim): standard normal, the same for a seed on a
    kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    kv_heads, m = kv_heads or heads, m or n
    shapes = [(batch, heads, n, head_dim), (batch, kv_heads, m, head_dim), (batch, kv_heads, m, value_dim or head_dim)]
    q, k, v = (torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_(grad)
               for shape in shapes)
    return q, k, v


def needles(*, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None, head_dim: int,
            value_dim: int | None = None, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
            seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws inputs like `inputs` in which every key matters: a lost key, or a hidden key that is seen, changes a row
    much.

    A quarter of the rows is flat, with temperatures that differ by row and head. Every other row looks for two keys,
    which together have most of its softmax at the usual scale. In half of the rows they are the query's own key and the
    one before, so each key decides a row. In a quarter they are the next key, which a causal mask hides, and a random
    one. The size of values differs by key and head. With over four times as many keys as queries, every row is flat.
    """
    q, k, v = (x.float() for x in inputs(batch=batch, heads=heads, kv_heads=kv_heads, n=n, m=m, head_dim=head_dim,
                                         value_dim=value_dim, device=device, seed=seed))
    G, M = k.shape[1:3]
    head, key = torch.arange(heads, device=device)[:, None], torch.arange(M, device=device)
    own = torch.arange(M - n, M, device=device).clamp_min(0)
    size = torch.tensor(SIZES, device=device)
    role = (own + head) % 4  # (H, N): 0 is flat, 2 looks ahead and anywhere
    drawn = torch.stack([torch.randperm(M, generator=torch.Generator().manual_seed(seed + h)) for h in range(heads)])
    drawn = drawn.to(device)[:, own]
    if 4 * n < M:  # too few rows to look for each key: all of them flat, and values of one size
        role, size = torch.zeros_like(role), torch.ones_like(size)
    one = torch.where(role == 2, (own + 1).clamp_max(M - 1), own.expand_as(role))
    other = torch.where(role == 2, drawn, (own - 1).clamp_min(0).expand_as(role))
    towards = k * head_dim / k.square().sum(-1, keepdim=True)  # a query of that has the score D for this key, not |k|²
    shared = head * G // heads  # the key head of each
    sought = towards[:, shared, one] + towards[:, shared, other]
    flat = q * size[(own + head) % 3, None].sqrt() * (1 + head[..., None] % 2)
    q = torch.where((role == 0)[..., None], flat, 0.3 * q + strength(head_dim, M) * sought)
    group = torch.arange(G, device=device)[:, None]
    v = v * size[(key + group) % 3, None] * (1 + group[..., None] % 3)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def strength(head_dim: int, m: int) -> float:
    """Gives the share b of a query in each of two keys with which they have e³ times the weight of `m` others.

    Their score is b √D at the usual scale, and the scores of the others have variance 2 b²: b √D = 3 + ln m + b². If no
    b solves this, it is the b that comes closest.
    """
    beyond = head_dim - 4 * (3 + math.log(m))
    return (head_dim ** 0.5 - max(0.0, beyond) ** 0.5) / 2
