"""Linear attention has weights φ(q)·φ(k) with φ = elu + 1 (Katharopoulos et al., Transformers are RNNs, arXiv
2006.16236).

out_i = sum_j φ(q_i)·φ(k_j) v_j / sum_j φ(q_i)·φ(k_j), equation 4. A `scale` would cancel in the quotient; the paper has
none.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import elu

from attention.backends.eager import eager
from attention.backends.fused import fused, whole
from attention.backends.plain import chunked
from attention.functions import _linear
from attention.functions._weighted import weighted_mean
from attention.registry import register


def flops(n: int, m: int, head_dim: int, causal: bool) -> int:
    """Counts the FLOPs of one head's forward pass by chunks."""
    return _linear.flops(n, m, head_dim, causal, features=head_dim)


@register("linear", kind="approximate", paper="arXiv 2006.16236", flops=flops, cost="n", flash=False,
          static_cache=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Divides the weights φ(q)·φ(k) by their sum."""
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (q.to(dtype), k.to(dtype)))
    return weighted_mean(lambda q, k, mask, i, j: q @ k.mT, phi_q, phi_k, v.to(dtype), causal=causal,
                         key_mask=key_mask)


def _features(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
              key_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes φ(q), φ(k) and v in float32 or wider; the features of a masked key are 0."""
    wide = torch.promote_types(q.dtype, torch.float32)
    phi_q, phi_k = elu(q.to(wide)) + 1, elu(k.to(wide)) + 1
    return phi_q, phi_k if key_mask is None else phi_k * key_mask[:, None, :, None], v.to(wide)


@register("linear", backends=[eager])
def linear(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None) -> torch.Tensor:
    """Computes the n x m kernel matrix, which is easy to read."""
    return _linear.quadratic(*_features(q, k, v, key_mask), causal=causal).to(q.dtype)


@register("linear", backends=[chunked], peak_bytes=lambda case: _linear.peak_bytes(case, case.head_dim))
def by_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None) -> torch.Tensor:
    """Computes φ(k)ᵀ v once for all queries or, causal, chunk by chunk."""
    compute = _linear.causal if causal else _linear.full
    return compute(*_features(q, k, v, key_mask)).to(q.dtype)


register("linear", backends=[fused], peak_bytes=lambda case: _linear.peak_bytes(case, case.head_dim))(whole(by_chunks))
