"""Attention sinks add a learned logit of each head, without a value, to the softmax of every row (Agarwal et al.,
gpt-oss-120b & gpt-oss-20b Model Card, arXiv 2508.10925; after Xiao et al., Efficient Streaming Language Models with
Attention Sinks, arXiv 2309.17453, and Miller's softmax_1, whose logit is always 0)."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attention import masks
from attention.backends.cudnn import cudnn_frontend
from attention.backends.eager import eager
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.functions.softmax import pairs
from attention.reference import softmax_attention
from attention.registry import register

STD = 0.02  # the deviation of the logits at the start, as in transformers' gpt-oss


def parameters(*, heads: int, **shape: object) -> dict[str, torch.Tensor]:
    """Draws sinks_H, one learned logit for each head: normal with deviation 0.02, seed 0."""
    generator = torch.Generator().manual_seed(0)
    return {"sinks_H": nn.Parameter(STD * torch.randn(heads, generator=generator, dtype=torch.float64))}


@register("sinks", kind="structured", paper="arXiv 2309.17453", pairs=pairs, parameters=parameters, convex=False,
          values=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Gives value j the weight e^s_j / (e^sink + the sum of e^s over the visible keys)."""
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, sinks_H=params["sinks_H"],
                             visible=(lambda i, j: j <= i) if causal else None)


@register("sinks", backends=[eager, cudnn_frontend, fa4, flex])
def sinks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
          key_mask: torch.Tensor | None, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Asks the backend for softmax with sinks.

    flash-attn 2 and 3 have none: a factor behind them, by their log-sum-exp, scales an output that is rounded already,
    and a sink that takes less of a row than half of a rounding step (1/256 in bfloat16) is lost altogether.
    """
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, sinks_H=params["sinks_H"])
