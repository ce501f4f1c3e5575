"""Auto-Correlation (Wu et al., Autoformer, arXiv 2106.13008).

R(τ) = Σ_t q_{t+τ}·k_t around a circle of n positions; the k = ⌊factor ln n⌋ delays τ of the largest R (at least one)
shift the values: out_t = Σ_τ w_τ v_{t+τ}, with w the softmax of scale/√D R over the k delays. At the default scale
1/√D that is the authors' mean over D channels.

Each head of each sequence finds its own delays, as the paper's formula has it. The authors' code is faster and coarser:
it averages R over the heads, and in training over the batch too. R is taken in float64 of the inputs as they come, in
every dtype, so that all choose the same delays; of equal ones the shortest.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch

from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import fft
from attention.registry import register


def count(n: int, factor: float) -> int:
    """⌊factor ln n⌋ delays, at least 1 and at most n."""
    return max(1, min(n, int(factor * math.log(n))))


def flops(n: int, m: int, head_dim: int, causal: bool, factor: float) -> int:
    """Of one head's forward pass by FFT: 2.5 n log2 n a real transform, of which there are 2 D + 1; 6 D a frequency to
    multiply and add; 2 D a position and delay."""
    transforms = int(2.5 * n * math.log2(max(2, n))) * (2 * head_dim + 1)
    return transforms + 8 * head_dim * (n // 2 + 1) + 2 * head_dim * n * count(n, factor)


def peak_bytes(case: Case) -> int:
    """Predicted: q and k in float64 and their transforms; sums of shifted values in float32 or wider."""
    wide = max(4, case.dtype.itemsize)
    delays = count(case.n, dict(case.options).get("factor", 1)) if case.grad else 1
    return Backend().peak_bytes(case) + case.heads * case.n * case.head_dim * (5 * 8 + (2 + delays) * wide)


def dense_bytes(case: Case) -> int:
    """Predicted: q kᵀ and its diagonals in float64, and where they lie."""
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
    """Every delay's correlation, of q written out twice in a row, then the chosen delays again, with gradients."""
    B, H, n, D = q.shape
    scale = D ** -0.5 if scale is None else scale
    with torch.no_grad():
        shifted = torch.cat([q, q], 2).double().unfold(2, n, 1)[:, :, :n]  # (B, H, delay, D, t)
        every = [torch.einsum("bhsdt,bhtd->bhs", some, k.double()) for some in shifted.split(16, dim=2)]
        delays = torch.cat(every, -1).sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
    t = torch.arange(n, device=q.device)

    def later(x: torch.Tensor, delay: torch.Tensor) -> torch.Tensor:
        index = (t + delay[..., None]) % n
        return x.to(dtype).gather(2, index[..., None].expand(-1, -1, -1, D))

    found = [(later(q, delay) * k.to(dtype)).sum((-1, -2)) for delay in delays.unbind(-1)]
    weights = (scale * D ** -0.5 * torch.stack(found, -1)).softmax(-1)
    out = torch.zeros(B, H, n, D, dtype=dtype, device=q.device)
    for weight, delay in zip(weights.unbind(-1), delays.unbind(-1), strict=True):
        out = out + weight[..., None, None] * later(v, delay)
    return out


def aggregated(correlation_BHN: torch.Tensor, v: torch.Tensor, scale: float, factor: float) -> torch.Tensor:
    """The values shifted by the delays of the largest correlation, weighted -> (B, H, N, D)."""
    n, D = v.shape[2:]
    delays = correlation_BHN.detach().sort(dim=-1, descending=True, stable=True).indices[..., :count(n, factor)]
    wide = torch.promote_types(v.dtype, torch.float32)
    weights = (scale * D ** -0.5 * correlation_BHN.gather(-1, delays)).softmax(-1).to(wide)
    t = torch.arange(n, device=v.device)
    out = torch.zeros_like(v, dtype=wide)
    for weight, delay in zip(weights.unbind(-1), delays.unbind(-1), strict=True):  # log n of them
        shifted = v.gather(2, ((t + delay[..., None]) % n)[..., None].expand_as(v))
        out = out + weight[..., None, None] * shifted
    return out.to(v.dtype)


@register("autocorrelation", backends=[eager], peak_bytes=dense_bytes)
def autocorrelation(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool,
                    scale: float, key_mask: None, factor: float) -> torch.Tensor:
    """R by its definition: sums along the circular diagonals of the n x n matrix q kᵀ."""
    t = torch.arange(q.shape[2], device=q.device)
    products = q.double() @ k.double().mT
    diagonals = products.gather(2, ((t[:, None] + t) % len(t)).expand_as(products))
    return aggregated(diagonals.sum(-1), v, scale, factor)


@register("autocorrelation", backends=[fft], peak_bytes=peak_bytes)
def by_fft(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: None, factor: float) -> torch.Tensor:
    """R by the Wiener-Khinchin theorem; channels are summed before the one way back."""
    spectrum = (torch.fft.rfft(q.double(), dim=2) * torch.fft.rfft(k.double(), dim=2).conj()).sum(-1)
    return aggregated(torch.fft.irfft(spectrum, n=q.shape[2]), v, scale, factor)
