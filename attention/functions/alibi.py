"""ALiBi adds a bias that grows linearly with distance (Press et al., Train Short, Test Long, arXiv 2108.12409)."""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from attention import masks
from attention.backends.cudnn import cudnn_frontend
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.sdpa import sdpa
from attention.backends.tiled import tiled
from attention.functions.softmax import pairs
from attention.reference import softmax_attention
from attention.registry import register


def slopes(heads: int) -> list[float]:
    """Gives the paper's slopes: 2^(-8/n), 2^(-16/n), ... for n heads if n is a power of two.

    Otherwise they are those of the nearest lower power, then every other one of the next (as in the authors' code).
    """
    power = 2 ** (heads.bit_length() - 1)
    first = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
    return first + between


class Alibi:
    """The bias(h, i, j) = -slope of head h x |i - j|. `slopes` are numbers, `slopes_H` a tensor on `device`, of
    `dtype`: float64 where q is, and else float32.

    If `causal`, no query sees a later key, so j - i is already the negative distance.
    """

    def __init__(self, heads: int, device: torch.device, causal: bool, dtype: torch.dtype = torch.float32) -> None:
        self.slopes = tuple(slopes(heads))
        self.slopes_H = torch.tensor(self.slopes, device=device, dtype=dtype)
        self.causal = causal

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return self.slopes_H[h] * (j - i if self.causal else -(j - i).abs())


# Backends store the mask that they make of a bias, and find it again by the identity of the object.
_bias = functools.cache(Alibi)


def bias(q_BHND: torch.Tensor, causal: bool) -> Alibi:
    """Gives the one bias of q's heads, on its device."""
    build = Alibi if torch.compiler.is_compiling() else _bias  # dynamo can't trace a cache
    return build(q_BHND.shape[1], q_BHND.device, causal, torch.promote_types(q_BHND.dtype, torch.float32))


@register("alibi", kind="structured", paper="arXiv 2108.12409", pairs=pairs, values=True, static_cache=True,
          core=True, skips=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Computes softmax attention with -slope |i - j| added to the scores; not causal, the bias is symmetric."""
    slope = torch.tensor(slopes(q.shape[1]), dtype=torch.float64, device=q.device)
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None,
                             bias=lambda h, i, j: -slope[h] * (i - j).abs())


@register("alibi", backends=[eager, sdpa, cudnn_frontend, fa2, fa4, flex, flex_fa4, tiled])
def alibi(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
          key_mask: torch.Tensor | None) -> torch.Tensor:
    """Asks the backend for softmax with ALiBi's bias."""
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask,
                  bias=bias(q, causal))
