"""Interpretable multi-head attention: heads share their values and are averaged (Lim et al., Temporal Fusion
Transformers, arXiv 1912.09363, equations 14 to 16).

The one value is the mean of v over its heads; where a model hands the same values to every head, as the paper's
does, it is these. The output, mean_h softmax(scale q_h k_hᵀ) times that value, is the same for each head: a layer
projects one of them, out[:, 0]. So heads are not independent, and the mean of the weights tells what was attended.
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
          convex=False)  # a weighted mean of values, though not of its own head's
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The mean over heads of softmax attention on the mean of values."""
    shared = v.to(dtype).mean(1, keepdim=True).expand_as(v)
    heads = softmax_attention(q, k, shared, scale=scale, key_mask=key_mask, dtype=dtype,
                              visible=(lambda i, j: j <= i) if causal else None)
    return heads.mean(1, keepdim=True).expand_as(heads)


def one_more_output(backend: Backend) -> Callable[[Case], int]:
    """Bytes of the backend's, and of the shared value and the mean, in float32 as they are averaged."""
    def peak_bytes(case: Case) -> int:
        return backend.peak_bytes(case) + 2 * max(4, case.dtype.itemsize) * case.heads * (case.n + case.m) * case.values

    return peak_bytes


def shared_value(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                 key_mask: torch.Tensor | None) -> torch.Tensor:
    wide = torch.promote_types(v.dtype, torch.float32)
    shared = v.mean(1, keepdim=True, dtype=wide).to(v.dtype).expand_as(v)
    heads = attend(q, k, shared, scale=scale, band=masks.band(causal), key_mask=key_mask)
    return heads.mean(1, keepdim=True, dtype=wide).to(v.dtype).expand_as(heads)


for backend in (eager, sdpa, fa2, flex):
    register("shared-value", backends=[backend], peak_bytes=one_more_output(backend))(shared_value)
