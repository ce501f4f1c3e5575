"""Combiner with the fixed pattern (Ren et al., Full Attention Transformer with Sparse Computation Cost, arXiv
2107.05768).

The sequence is cut into blocks of `block` positions, by default √n. A query sees the keys of its own block one by one,
and every other block (causal, every earlier one) as one abstraction. The weight of block Ω is exp(scale q·k_Ω), and its
value is Σ_j p(j|Ω) v_j, where p(j|Ω) is the softmax of scale q_Ω·k_j over Ω. k_Ω and q_Ω are the block's keys and
queries after `pooling`, "max" or "mean"; equal maxima share the gradient evenly. So the weights of a query are a full
conditional distribution over all visible keys, factorised, at a cost of n √n.

The authors' code is causal only; its other form counts a query's own block twice. Here it counts once (section 3.2: the
parts are disjoint).
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import blocks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.backends.product import product, wide
from attention.reference import softmax_attention
from attention.registry import register

POOLING = ("max", "mean")


def size(n: int, block: int | None) -> int:
    """Gives the number of positions in a block."""
    return block or max(1, round(n ** 0.5))


def flops(n: int, m: int, head_dim: int, causal: bool, block: int | None, pooling: str) -> int:
    """Counts the FLOPs of one head's forward pass: the abstractions, then a block and all abstractions per query."""
    C = size(n, block)
    T = -(-n // C)
    return 4 * head_dim * T * C * (1 + C + T)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: the weights of a block and all abstractions for each query."""
    C = size(case.n, dict(case.options).get("block"))
    keys = C + -(-case.n // C)
    one, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    head = case.n * (keys * (2 * one + 2 * wide) + 4 * case.head_dim * one)
    return Backend().peak_bytes(case) + case.heads * head * (2 if case.grad else 1)


def validate(block: int | None, pooling: str) -> None:
    """Raises ValueError unless `block` is None or a whole number of at least 1 and `pooling` is one of `POOLING`."""
    if block is not None and (not isinstance(block, int) or block < 1):
        raise ValueError(f"combiner: block={block!r} must be a whole number >= 1, or None for the root of n")
    if pooling not in POOLING:
        raise ValueError(f"combiner: pooling={pooling!r} must be one of {', '.join(POOLING)}")


@register("combiner", kind="approximate", paper="arXiv 2107.05768", flops=flops, cost="n √n",
          options={"block": None, "pooling": "max"}, validate=validate, cross=False, grouped=False, padding=False,
          flash=False, default=False,
          test_values={"block": (16, None, 7, 300), "pooling": ("max", "mean")})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, block: int | None, pooling: str) -> torch.Tensor:
    """Computes softmax attention on n keys and T abstractions.

    Each query sees the keys of its own block and the abstractions of the others.
    """
    n, D = q.shape[2:]
    C = size(n, block)
    scale = D ** -0.5 if scale is None else scale
    q, k, v = (x.to(dtype) for x in (q, k, v))
    pool = (lambda x: x.amax(2, keepdim=True)) if pooling == "max" else (lambda x: x.mean(2, keepdim=True))
    keys, values = [k], [v]
    for block_q, block_k, block_v in zip(q.split(C, 2), k.split(C, 2), v.split(C, 2), strict=True):
        keys.append(pool(block_k))
        values.append((scale * (pool(block_q) @ block_k.mT)).softmax(-1) @ block_v)
    T = len(keys) - 1

    def visible(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        own = i - T  # the last query stands at the last key, here the last abstraction
        near = (j // C == own // C) & (j <= own if causal else j < n)
        far = (j - n < own // C) if causal else (j - n != own // C)
        return torch.where(j < n, near, far)

    return softmax_attention(q, torch.cat(keys, 2), torch.cat(values, 2), scale=scale, visible=visible, dtype=dtype)


def abstractions(q_BHTCD: torch.Tensor, k_BHTCD: torch.Tensor, v_BHTCD: torch.Tensor, real_TC: torch.Tensor,
                 scale: float, pooling: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the key and value of each block, (B, H, T, D), in float32 or wider, by products in `dtype`."""
    real = real_TC[..., None]

    def pool(x: torch.Tensor) -> torch.Tensor:
        if pooling == "max":
            return x.masked_fill(~real, -torch.inf).amax(3)
        return x.sum(3) / real.sum(1)

    scores = product(pool(q_BHTCD).unsqueeze(-2), k_BHTCD.mT, scale, dtype=dtype)
    weights = scores.masked_fill(~real_TC.unsqueeze(-2), -torch.inf).softmax(-1)
    return pool(k_BHTCD), product(weights, v_BHTCD, dtype=dtype).squeeze(-2)


def _joint(near: torch.Tensor, far: torch.Tensor) -> list[torch.Tensor]:
    """Computes one softmax over single keys and abstractions, and gives the weights of both."""
    return list(torch.cat([near, far], -1).softmax(-1).split([near.shape[-1], far.shape[-1]], -1))


@register("combiner", backends=[eager], peak_bytes=lambda case: eager.peak_bytes(case) + peak_bytes(case))
def combiner(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: None, block: int | None, pooling: str) -> torch.Tensor:
    """Computes the full matrix of scores, hides all but its diagonal blocks, and adds the scores of abstractions."""
    n, dtype = q.shape[2], q.dtype
    C = size(n, block)
    q, k, v = (wide(x) for x in (q, k, v))
    far_k, far_v = abstractions(blocks.cut(q, C), blocks.cut(k, C), blocks.cut(v, C), blocks.real(n, C, q.device),
                                scale, pooling, dtype)
    i = torch.arange(n, device=q.device)[:, None]
    j, t = i.mT, torch.arange(far_k.shape[2], device=q.device)
    hidden = (i // C != j // C) | (j > i if causal else False)
    near = product(q, k.mT, scale, dtype=dtype).masked_fill(hidden, -torch.inf)
    far = product(q, far_k.mT, scale, dtype=dtype).masked_fill(t >= i // C if causal else t == i // C, -torch.inf)
    on_keys, on_blocks = _joint(near, far)
    return (product(on_keys, v, dtype=dtype) + product(on_blocks, far_v, dtype=dtype)).to(dtype)


@register("combiner", backends=[chunked], peak_bytes=peak_bytes)
def by_blocks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: None, block: int | None, pooling: str) -> torch.Tensor:
    """Computes only the blocks on the diagonal, and the scores of abstractions."""
    n, dtype = q.shape[2], q.dtype
    C = size(n, block)
    q_BHTCD, k_BHTCD, v_BHTCD = (blocks.cut(wide(x), C) for x in (q, k, v))
    real = blocks.real(n, C, q.device)
    far_k, far_v = abstractions(q_BHTCD, k_BHTCD, v_BHTCD, real, scale, pooling, dtype)
    T = far_k.shape[2]
    t = torch.arange(T, device=q.device)
    later = torch.ones(C, C, dtype=torch.bool, device=q.device).triu(1) if causal else False
    near = product(q_BHTCD, k_BHTCD.mT, scale, dtype=dtype).masked_fill(later | ~real[:, None], -torch.inf)
    hidden = (t >= t[:, None]) if causal else (t == t[:, None])
    far = product(q_BHTCD, far_k.mT.unsqueeze(2), scale, dtype=dtype).masked_fill(hidden[:, None], -torch.inf)
    on_keys, on_blocks = _joint(near, far)
    out = product(on_keys, v_BHTCD, dtype=dtype) + product(on_blocks, far_v.unsqueeze(2), dtype=dtype)
    return blocks.join(out.to(dtype), n)
