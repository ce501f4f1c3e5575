"""Modifiers of the score for FlashAttention-4, in CuTe's language. Import this file only where a kernel runs.

A modifier is built once and cached, since the package identifies a compiled kernel by it.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cutlass
from cutlass import cute


class Scores(NamedTuple):
    """The functions that the kernels call.

    `forward` and `again` give the modified score in the two passes, `backward` the gradient times its derivative, and
    `mask` says which pairs of a partly visible block are visible.
    """

    forward: Any
    again: Any
    backward: Any
    mask: Any = None


@functools.lru_cache(maxsize=64)
def alibi(slopes: tuple[float, ...], offset: int, causal: bool) -> Scores:
    """Builds score - slope |i - j|, where query i stands at key `offset` + i. The slopes are compiled in."""
    heads = len(slopes)

    @cute.jit
    def slope_of(head: Any) -> Any:
        slope = cute.full_like(head, slopes[0], cutlass.Float32)
        for other in cutlass.range_constexpr(1, heads):
            slope = cute.where(head == cute.full_like(head, other), cute.full_like(slope, slopes[other]), slope)
        return slope

    @cute.jit
    def again(score, batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        after = (kv_idx - q_idx - cute.full_like(q_idx, offset)).to(cutlass.Float32)
        if cutlass.const_expr(not causal):
            after = cute.where(after > cute.full_like(after, 0.0), cute.full_like(after, 0.0) - after, after)
        return score.to(cutlass.Float32) + slope_of(head) * after

    @cute.jit
    def pair(score, batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        # Each call computes two neighbouring keys with one conversion to float instead of two.
        first = (kv_idx[0] - q_idx[0] - offset).to(cutlass.Float32)
        after = cute.make_rmem_tensor(kv_idx.shape, cutlass.Float32)
        for at in cutlass.range_constexpr(cute.size(after.shape)):
            after[at] = first + cutlass.Float32(at)
        return score.to(cutlass.Float32) + slope_of(head) * after.load()

    @cute.jit
    def backward(grad, score, batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        return grad

    @cute.jit
    def mask(batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        if cutlass.const_expr(causal):
            return kv_idx <= q_idx + cute.full_like(q_idx, offset)
        return kv_idx >= cute.full_like(kv_idx, 0)  # every key

    pair.__vec_size__ = 2
    return Scores(pair if causal else again, again, backward, mask)


@functools.lru_cache(maxsize=64)
def softcap(cap: float) -> Scores:
    """Builds cap tanh(score / cap) with products by 1 / cap; the package's own function divides twice for a score."""
    inverse = 1 / cap

    @cute.jit
    def forward(score, batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        return cute.math.tanh(score * inverse, fastmath=True) * cap

    @cute.jit
    def backward(grad, score, batch, head, q_idx, kv_idx, seqlen_info, aux_tensors):
        tanh = cute.math.tanh(score * inverse, fastmath=True)
        return grad * (1.0 - tanh * tanh)

    return Scores(forward, forward, backward)
