"""Auto-Correlation adds up values shifted by the strongest delays (Wu et al., Autoformer, arXiv 2106.13008).

R(τ) = Σ_t q_{t+τ}·k_t around a circle of n positions. The k = ⌊factor ln n⌋ delays τ of the largest R (at least one)
shift the values: out_t = Σ_τ w_τ v_{t+τ}, where w is the softmax of scale/√D R over the k delays. At the default scale
1/√D that is the authors' mean over D channels.

Each head of each sequence chooses its own delays, as the paper's formula says. The authors' code is faster and coarser:
it averages R over the heads, and in training over the batch too. R is computed in float64 from the inputs of any dtype,
so all variants choose the same delays; of equal delays they choose the shortest.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch

from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import fft
from attention.backends.product import wide
from attention.registry import register


def count(n: int, factor: float) -> int:
    """Gives the number of delays: ⌊factor ln n⌋, at least 1 and at most n."""
    return max(1, min(n, int(factor * math.log(n))))


def flops(n: int, m: int, head_dim: int, causal: bool, factor: float) -> int:
    """Counts the FLOPs of one head's forward pass by FFT.

    They are 2.5 n log2 n for each of 2 D + 1 real transforms, 6 D for each frequency to multiply and add, and 2 D for
    each position and delay.
    """
    transforms = int(2.5 * n * math.log2(max(2, n))) * (2 * head_dim + 1)
    return transforms + 8 * head_dim * (n // 2 + 1) + 2 * head_dim * n * count(n, factor)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: q, k and their transforms in float64; sums of shifted values in float32 or wider."""
    wide = max(4, case.dtype.itemsize)
    delays = count(case.n, dict(case.options).get("factor", 1)) if case.grad else 1
    return Backend().peak_bytes(case) + case.heads * case.n * case.head_dim * (5 * 8 + (2 + delays) * wide)


def dense_bytes(case: Case) -> int:
    """Predicts peak bytes: q kᵀ and its diagonals in float64, and the indices of the diagonals."""
    matrices = 8 * case.n ** 2 * (case.heads * (4 if case.grad else 2) + 1)
    return peak_bytes(case) + matrices


def validate(factor: float) -> None:
    """Raises ValueError unless `factor` is a number above 0."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise ValueError(f"autocorrelation: factor={factor!r} must be a number above 0")


@register("autocorrelation", kind="approximate", paper="arXiv 2106.13008", flops=flops, cost="n log n",
          options={"factor": 1}, validate=validate, causal=False, cross=False, grouped=False, padding=False,
          flash=False, default=False,
          test_values={"factor": (2, 1, 2.5, 6)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, factor: float) -> torch.Tensor:
    """Computes the correlation of every delay without gradients, then that of the chosen delays with gradients."""
    B, H, n, D = q.shape
    scale = D ** -0.5 if scale is None else scale
    with torch.no_grad():
        shifts = torch.cat([q, q], 2).double().unfold(2, n, 1)[:, :, :n]  # (B, H, delay, D, t)
        parts = [torch.einsum("bhsdt,bhtd->bhs", part, k.double()) for part in shifts.split(16, dim=2)]
        delays = torch.cat(parts, -1).sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
    t = torch.arange(n, device=q.device)

    def later(x: torch.Tensor, delay: torch.Tensor) -> torch.Tensor:
        index = (t + delay[..., None]) % n
        return x.to(dtype).gather(2, index[..., None].expand(-1, -1, -1, D))

    correlations = [(later(q, delay) * k.to(dtype)).sum((-1, -2)) for delay in delays.unbind(-1)]
    weights = (scale * D ** -0.5 * torch.stack(correlations, -1)).softmax(-1)
    out = torch.zeros(B, H, n, D, dtype=dtype, device=q.device)
    for weight, delay in zip(weights.unbind(-1), delays.unbind(-1), strict=True):
        out = out + weight[..., None, None] * later(v, delay)
    return out


def aggregate(correlation_BHN: torch.Tensor, v: torch.Tensor, scale: float, factor: float) -> torch.Tensor:
    """Sums the values shifted by the delays of the largest correlation, with their weights -> (B, H, N, D)."""
    n, D = v.shape[2:]
    delays = correlation_BHN.detach().sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
    values = wide(v)
    weights = (scale * D ** -0.5 * correlation_BHN.gather(-1, delays)).softmax(-1).to(values.dtype)
    t = torch.arange(n, device=v.device)
    out = torch.zeros_like(values)
    for weight, delay in zip(weights.unbind(-1), delays.unbind(-1), strict=True):  # log n of them
        later = values.gather(2, ((t + delay[..., None]) % n)[..., None].expand_as(v))
        out = out + weight[..., None, None] * later
    return out.to(v.dtype)


@register("autocorrelation", backends=[eager], peak_bytes=dense_bytes)
def autocorrelation(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool,
                    scale: float, key_mask: None, factor: float) -> torch.Tensor:
    """Computes R by its definition: it sums along the circular diagonals of the n x n matrix q kᵀ."""
    t = torch.arange(q.shape[2], device=q.device)
    products = q.double() @ k.double().mT
    diagonals = products.gather(2, ((t[:, None] + t) % len(t)).expand_as(products))
    return aggregate(diagonals.sum(-1), v, scale, factor)


@register("autocorrelation", backends=[fft], peak_bytes=peak_bytes)
def by_fft(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: None, factor: float) -> torch.Tensor:
    """Computes R by the Wiener-Khinchin theorem; channels are summed before the one inverse transform."""
    spectrum = (torch.fft.rfft(q.double(), dim=2) * torch.fft.rfft(k.double(), dim=2).conj()).sum(-1)
    return aggregate(torch.fft.irfft(spectrum, n=q.shape[2]), v, scale, factor)
