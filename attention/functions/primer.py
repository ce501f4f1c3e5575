"""Primer's multi-DConv-head attention is softmax attention after a causal depthwise convolution of each head's q, k and
v (So et al., Primer, arXiv 2109.08668).

y_i = w_0 x_i + w_1 x_{i-1} + w_2 x_{i-2} with a weight for each channel of each head and each of q, k, v. w_0 starts at
0.5, the others at 0.5 / width, as in the authors' code (lingvo, DepthwiseConvAutoregressive). Padded tokens count as
zeros. A query needs the two before it, so a call takes whole sequences.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import pad

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
from attention.function import Parameters, require_whole
from attention.functions import softmax
from attention.reference import softmax_attention
from attention.registry import register


def validate(width: int) -> None:
    """Raises ValueError unless `width` is a whole number of at least 1."""
    require_whole("primer", width=width)


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool,
               width: int) -> Parameters:
    """Builds the convolutions of q, k and v, (heads, width, head_dim), the weights of a token itself first."""
    def start(heads: int) -> nn.Parameter:
        weights = torch.full((heads, width, head_dim), 0.5 / width, dtype=torch.float64)
        weights[:, 0] = 0.5
        return nn.Parameter(weights)

    return {"conv_q": start(heads), "conv_k": start(kv_heads), "conv_v": start(kv_heads)}


def flops(n: int, m: int, head_dim: int, causal: bool, width: int) -> int:
    """Counts the FLOPs of one head's forward pass: three convolutions and softmax attention."""
    return 2 * width * head_dim * (n + 2 * m) + 4 * head_dim * softmax.pairs(n, m, causal)


@register("primer", kind="approximate", paper="arXiv 2109.08668", flops=flops, cost="n²", cross=False, convex=False,
          default=False, options={"width": 3}, validate=validate, parameters=parameters,
          test_values={"width": (3, 1, 4)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, width: int, params: Parameters) -> torch.Tensor:
    """Convolves q, k and v and computes softmax attention on them."""
    keep = 1 if key_mask is None else key_mask[:, None, :, None]

    def conv(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        x = x.to(dtype) * keep
        before = x.new_zeros(*x.shape[:2], width - 1, x.shape[-1])
        windows = torch.cat([before, x], 2).unfold(2, width, 1).flip(-1)  # (B, H, N, D, width), the token itself first
        return (windows * weights.mT[:, None]).sum(-1)

    return softmax_attention(conv(q, params["conv_q"]), conv(k, params["conv_k"]), conv(v, params["conv_v"]),
                             scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)


@compiled_on_gpu
def convolve(x_BHND: torch.Tensor, weights_HWD: torch.Tensor, keep_B1N1: torch.Tensor | None) -> torch.Tensor:
    """Computes the causal depthwise convolution -> (B, H, N, D); sums are in float32 or wider."""
    wide = torch.promote_types(x_BHND.dtype, torch.float32)
    x, weights = x_BHND.to(wide), weights_HWD.to(wide).unsqueeze(2)
    if keep_B1N1 is not None:
        x = x * keep_B1N1
    total = x * weights[:, 0]
    for ago in range(1, weights.shape[1]):
        total = total + pad(x, (0, 0, ago, 0))[:, :, :x.shape[2]] * weights[:, ago]
    return total.to(x_BHND.dtype)


@register("primer", backends=[eager, sdpa, fa2, fa3, fa4, flex, tiled])
def primer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None, width: int, params: Parameters) -> torch.Tensor:
    """Convolves q, k and v and asks the backend for softmax."""
    keep = None if key_mask is None else key_mask[:, None, :, None]
    q, k, v = (convolve(x, params[name], keep) for x, name in ((q, "conv_q"), (k, "conv_k"), (v, "conv_v")))
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)


register("primer", backends=[fused])(whole(primer, sdpa))
