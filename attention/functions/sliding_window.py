"""Sliding-window attention sees the nearest W keys (Beltagy et al., Longformer, arXiv 2004.05150).

W is the number of keys that a query sees, its own among them. Causal, they are the last W. Otherwise they lie around
the query, W // 2 before it and (W - 1) // 2 after it.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.cudnn import cudnn_frontend
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.sdpa import sdpa
from attention.backends.tiled import tiled
from attention.function import require_whole
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool, window: int) -> int:
    """Counts the visible query-key pairs of one head."""
    return masks.window(window, causal).pairs(n, m)


def validate(window: int) -> None:
    """Raises ValueError unless `window` is a whole number of at least 1."""
    require_whole("sliding-window", window=window)


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Narrows the window so that it hides some of a probe's few keys."""
    return {"window": min(options["window"], max(1, m // 2))}


@register("sliding-window", kind="structured", paper="arXiv 2004.05150", pairs=pairs,
          cost="n", options={"window": 256}, validate=validate, few=few, values=True, core=True,
          test_values={"window": (5, 1, 2, 16, 64, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, window: int) -> torch.Tensor:
    """Computes softmax attention over W keys."""
    def visible(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        ago = i - j
        if causal:
            return (ago >= 0) & (ago < window)
        return (2 * ago <= window) & (-2 * ago < window)

    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, visible=visible)


@register("sliding-window", backends=[eager, sdpa, cudnn_frontend, fa2, fa3, fa4, flex, flex_fa4, tiled])
def sliding_window(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool,
                   scale: float, key_mask: torch.Tensor | None, window: int) -> torch.Tensor:
    """Asks the backend for softmax on a band of keys."""
    return attend(q, k, v, scale=scale, band=masks.window(window, causal), key_mask=key_mask)
