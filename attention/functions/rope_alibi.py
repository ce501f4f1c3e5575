"""RoPE and ALiBi together (Li, The Nature of Mathematical Modeling in Generative AI, arXiv 2410.18441).

RoPE rotates queries and keys, ALiBi adds a bias to their scores, each as its own paper defines it (arXiv 2104.09864 and
2108.12409). The harmonic series that Li adds to them is left out.
"""
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
from attention.functions.alibi import bias, slopes
from attention.functions.rope import oracle_rotate, pairs, rotate, validate
from attention.reference import softmax_attention
from attention.registry import register


@register("rope-alibi", kind="structured", paper="arXiv 2410.18441", pairs=pairs, options={"base": 10000.0},
          validate=functools.partial(validate, function="rope-alibi"), values=True,
          test_values={"base": (10000.0, 100.0)}, skips=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, base: float) -> torch.Tensor:
    """Computes softmax attention of q and k rotated by their positions, with -slope |i - j| added to the scores."""
    n, m = q.shape[2], k.shape[2]
    i, j = torch.arange(m - n, m, device=q.device), torch.arange(m, device=q.device)
    slope = torch.tensor(slopes(q.shape[1]), dtype=torch.float64, device=q.device)
    return softmax_attention(oracle_rotate(q.to(dtype), i, base), oracle_rotate(k.to(dtype), j, base), v, scale=scale,
                             key_mask=key_mask, dtype=dtype, visible=(lambda i, j: j <= i) if causal else None,
                             bias=lambda h, i, j: -slope[h] * (i - j).abs())


@register("rope-alibi", backends=[eager, sdpa, cudnn_frontend, fa2, fa4, flex, flex_fa4, tiled])
def rope_alibi(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
               key_mask: torch.Tensor | None, base: float) -> torch.Tensor:
    """Rotates q and k and asks the backend for softmax with ALiBi's bias."""
    q, k = rotate(q, k.shape[2] - q.shape[2], base), rotate(k, 0, base)
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask,
                  bias=bias(q, causal))
