"""Softcap limits the scores of softmax attention smoothly to cap tanh(s / cap) (Gemma 2, arXiv 2408.00118, section
2)."""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.tiled import tiled
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register


def pairs(n: int, m: int, causal: bool, cap: float) -> int:
    """Counts the visible query-key pairs of one head."""
    return all_pairs(n, m, causal)


def validate(cap: float) -> None:
    """Raises ValueError unless `cap` is a number above 0."""
    if isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap < float("inf"):
        raise ValueError(f"softcap: cap={cap!r} must be a number > 0")


@register("softcap", kind="structured", paper="arXiv 2408.00118", pairs=pairs, options={"cap": 50.0},
          validate=validate, values=True, static_cache=True,
          test_values={"cap": (2.0, 1, 5.0, 50.0)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, cap: float) -> torch.Tensor:
    """Computes softmax(cap tanh(scale q kᵀ / cap)) v."""
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, softcap=cap,
                             visible=(lambda i, j: j <= i) if causal else None)


@register("softcap", backends=[eager, fa2, fa3, fa4, flex, flex_fa4, tiled])
def softcap(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
            key_mask: torch.Tensor | None, cap: float) -> torch.Tensor:
    """Asks the backend for softmax with a cap on the scores."""
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, softcap=float(cap))
