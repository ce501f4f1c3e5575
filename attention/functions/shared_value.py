"""Interpretable multi-head attention: all heads share their values, and their outputs are averaged (Lim et al.,
Temporal Fusion Transformers, arXiv 1912.09363, equations 14 to 16).

The shared values are the mean of v over its heads. A model that passes the same values to every head, as the paper's
does, gets these values. The output, mean_h softmax(scale q_h k_hᵀ) times the shared values, is the same for each head,
and a layer projects one of them, out[:, 0]. So heads are not independent, and the mean of the weights shows what the
layer attends to.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.functions.softmax import pairs
from attention.reference import softmax_attention
from attention.registry import register


@register("shared-value", kind="structured", paper="arXiv 1912.09363", pairs=pairs, values=True, apart=False,
          static_cache=True, convex=False)  # an output is a mean of values, but not of the values of its own head
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Computes the mean over heads of softmax attention on the mean of the values."""
    mean = v.to(dtype).mean(1, keepdim=True).expand_as(v)
    heads = softmax_attention(q, k, mean, scale=scale, key_mask=key_mask, dtype=dtype,
                              visible=(lambda i, j: j <= i) if causal else None)
    return heads.mean(1, keepdim=True).expand_as(heads)


def bytes_with_means(backend: Backend) -> Callable[[Case], int]:
    """Predicts peak bytes: the backend's, and those of the two means, which are computed in float32 or wider."""
    def peak_bytes(case: Case) -> int:
        return backend.peak_bytes(case) + 2 * max(4, case.dtype.itemsize) * case.heads * (case.n + case.m) * case.values

    return peak_bytes


def shared_value(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None) -> torch.Tensor:
    """Asks the backend for softmax on the mean of the values, and averages the heads."""
    wide = torch.promote_types(v.dtype, torch.float32)
    mean = v.mean(1, keepdim=True, dtype=wide).to(v.dtype).expand_as(v)
    heads = attend(q, k, mean, scale=scale, band=masks.band(causal), key_mask=key_mask)
    return heads.mean(1, keepdim=True, dtype=wide).to(v.dtype).expand_as(heads)


for backend in (eager, sdpa, fa2, flex):
    register("shared-value", backends=[backend], peak_bytes=bytes_with_means(backend))(shared_value)
