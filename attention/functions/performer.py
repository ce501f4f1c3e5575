"""Performer approximates softmax by positive orthogonal random features (Choromanski et al., arXiv 2009.14794).

With φ(x)_r = exp(w_r·x - |x|²/2) for Gaussian w_r, the mean of φ(q)·φ(k) / R is exp(q·k); q and k are first multiplied
by sqrt(scale). The authors' code adds 1e-4 (JAX: 1e-6) to each feature so that it never divides by 0. Here no constant
is added: features are relative to the largest one, which cancels in the quotient. If all kernel values of a row are
still 0 in float32, as for inputs tens of times the usual size, the output of the row is zeros.

`features` is R; another `seed` gives another set of features.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.fused import fused, whole
from attention.backends.plain import chunked
from attention.function import Parameters, require_whole
from attention.functions import _linear
from attention.functions._weighted import weighted_mean
from attention.registry import register

FEATURES = 256


def validate(features: int, seed: int) -> None:
    """Raises ValueError unless `features` is a whole number of at least 1 and `seed` one of at least 0."""
    require_whole("performer", features=features)
    require_whole("performer", least=0, seed=seed)


def orthogonal_features(features: int, head_dim: int, seed: int) -> torch.Tensor:
    """Draws w (R, D): blocks of D orthogonal directions; each row has the length of a Gaussian vector of D numbers.

    The signs differ from the authors' code. A QR decomposition alone gives directions that are not uniform (the first
    of each points to one side), and then the mean of φ(q)·φ(k) is wrong. The signs of R's diagonal make them uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-features // head_dim)
    Q, R = torch.linalg.qr(torch.randn(blocks, head_dim, head_dim, generator=generator, dtype=torch.float64))
    directions = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    lengths = torch.randn(features, head_dim, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    return lengths * directions.mT.flatten(0, 1)[:features]


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, features: int,
               seed: int) -> Parameters:
    """Draws one constant set of features for all heads."""
    return {"projection": orthogonal_features(features, head_dim, seed)}


def flops(n: int, m: int, head_dim: int, causal: bool, features: int, seed: int) -> int:
    """Counts the FLOPs of one head's forward pass by chunks."""
    return 2 * features * head_dim * (n + m) + _linear.flops(n, m, head_dim, causal, features)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes of the form by chunks."""
    return _linear.peak_bytes(case, dict(case.options).get("features", FEATURES))


@register("performer", kind="approximate", paper="arXiv 2009.14794", flops=flops, cost="n", flash=False,
          options={"features": FEATURES, "seed": 0}, validate=validate, parameters=parameters, static_cache=True,
          # With one feature q cancels in the quotient: its gradient, and most of k's, is rounding alone.
          test_values={"features": (48, 2, 16, 100), "seed": (0, 3)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, features: int, seed: int,
           params: Parameters) -> torch.Tensor:
    """Divides the weights sum_r exp(w_r·q - |q|²/2) exp(w_r·k - |k|²/2) by their sum; |q|²/2 cancels."""
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    w = params["projection"].mT
    q, k = root * q.to(dtype), root * k.to(dtype)

    def kernel(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        a, b = (x.to(torch.promote_types(dtype, torch.float32)) for x in (a, b))
        top = b.detach().amax(-1)[:, :, None]  # the largest of each key, (B, H, 1, M)
        tops = top.masked_fill(~mask, -torch.inf)
        largest = tops.amax(-1, keepdim=True).masked_fill(~mask.any(-1, keepdim=True), 0)  # of the visible keys
        phi_q, phi_k = (a - a.detach().amax(-1, keepdim=True)).exp(), (b - top.mT).exp()
        return (phi_q @ phi_k.mT) * (tops - largest).exp()

    return weighted_mean(kernel, q @ w, k @ w - k.square().sum(-1, keepdim=True) / 2, v.to(dtype), causal=causal,
                         key_mask=key_mask)


Features = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def _features(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None) -> Features:
    """Computes φ(q), φ(k) and v in float32 or wider, and the logarithm of the scale of φ(k), (B, G, M) or None.

    Not causal, each feature of φ(k) is divided by its largest value over the keys, and φ(q) is multiplied by it. So the
    sum of φ(k) for the largest feature of a query is at least one. Causal, the features of a key are divided by the
    largest of that key.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, w = q.to(wide) * scale ** 0.5, k.to(wide) * scale ** 0.5, w.to(wide).mT
    a, b = q @ w, k @ w - k.square().sum(-1, keepdim=True) / 2
    if key_mask is not None:
        b = b.masked_fill(~key_mask[:, None, :, None], _linear.NEVER)
    top = b.detach().amax(-1 if causal else 2, keepdim=True)
    phi_k = (b - top).exp()
    if key_mask is not None:
        phi_k = phi_k * key_mask[:, None, :, None]
    if not causal:
        a = a + top.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    phi_q = (a - a.detach().amax(-1, keepdim=True)).exp()
    return phi_q, phi_k, v.to(wide), top.squeeze(-1) if causal else None


@register("performer", backends=[eager])
def performer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, features: int, seed: int, params: Parameters) -> torch.Tensor:
    """Computes the n x m kernel matrix, which is easy to read."""
    features_of_qkv = _features(q, k, v, params["projection"], causal=causal, scale=scale, key_mask=key_mask)
    return _linear.quadratic(*features_of_qkv, causal=causal).to(q.dtype)


@register("performer", backends=[chunked], peak_bytes=peak_bytes)
def by_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: torch.Tensor | None, features: int, seed: int, params: Parameters) -> torch.Tensor:
    """Computes φ(k)ᵀ v once for all queries or, causal, chunk by chunk."""
    phi_q, phi_k, wide, log = _features(q, k, v, params["projection"], causal=causal, scale=scale, key_mask=key_mask)
    out = _linear.full(phi_q, phi_k, wide) if log is None else _linear.causal(phi_q, phi_k, wide, log)
    return out.to(q.dtype)


register("performer", backends=[fused], peak_bytes=peak_bytes)(whole(by_chunks))
