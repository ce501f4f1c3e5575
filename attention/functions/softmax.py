"""Softmax attention (Vaswani et al., Attention Is All You Need, arXiv 1706.03762)."""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.checkpointed import checkpointed
from attention.backends.cudnn import cudnn_frontend
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.sdpa import cudnn, efficient, flash, math, sdpa
from attention.backends.tiled import tiled
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool) -> int:
    """Counts the visible query-key pairs of one head."""
    return masks.band(causal).pairs(n, m)


@register("softmax", kind="exact", paper="arXiv 1706.03762", pairs=pairs, values=True, static_cache=True,
          core=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Computes softmax attention on every key or, causal, on the keys up to the query's own."""
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


@register("softmax", backends=[eager, sdpa, math, flash, efficient, cudnn, cudnn_frontend, fa2, fa3, fa4, flex,
                               flex_fa4, tiled, checkpointed])
def softmax(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool,
            scale: float, key_mask: torch.Tensor | None) -> torch.Tensor:
    """Asks the backend for softmax."""
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)
