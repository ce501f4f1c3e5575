"""Kernelised attention with relative positions takes O(n log n) by FFT (Luo et al., Stable, Fast and Accurate, arXiv
2106.12566): equation 10 with the normalisation of section 3.3.

out_i = sum_j e^(b_{j-i}) φ(q_i)·φ(k_j) v_j / sum_j e^(b_{j-i}) φ(q_i)·φ(k_j). φ are the positive features of
`performer` on q and k of length one, so `scale` has no effect. b is learned, one number for each head and distance,
(H, 2 seq_len - 1), and starts at 0. e^b is a Toeplitz matrix: its product with φ(k) vᵀ is a convolution, which an FFT
computes (section 3.2). Causal calls see j <= i only.

An FFT rounds every output as coarsely as the largest one. So it works in float64 for any inputs: the first rows of a
causal output, which are small, stay right, and later keys do not change them.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import Plain
from attention.function import Parameters, require_whole
from attention.functions import _linear
from attention.functions._weighted import weighted_mean
from attention.functions.performer import orthogonal_features
from attention.registry import register

FEATURES = 64
# float64 numbers in memory at once, for the sequences of a block of features. A CPU spends most of the time on fetching
# memory where they don't fit into its cache; a GPU wants few launches.
BLOCK = {"cpu": 2 ** 19, "cuda": 2 ** 25}


class FFT(Plain):
    """This backend refuses what rounding in an FFT makes wrong."""

    def refuses(self, case: Case) -> str | None:
        if case.causal and case.dtype == torch.float64:
            return "in float64 an FFT rounds the first causal rows by as much as the last; use eager, or float32"
        return None


fft = FFT("fft")


def validate(features: int, seed: int) -> None:
    """Raises ValueError unless `features` is a whole number of at least 1 and `seed` one of at least 0."""
    require_whole("kernelised-rpe", features=features)
    require_whole("kernelised-rpe", least=0, seed=seed)


def limits(case: Case) -> str | None:
    """Refuses queries that stand before the first key."""
    if case.n > case.m and not case.causal:
        return f"n={case.n} queries on m={case.m} keys: some stand before the first key, at distances without a bias"
    return None


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, features: int,
               seed: int) -> Parameters:
    """Builds b, learned, (H, 2 seq_len - 1), for j - i from 1 - seq_len on, and the features, which are constant.

    Raises ValueError without seq_len.
    """
    if seq_len is None:
        raise ValueError("kernelised-rpe: seq_len=None must be the longest sequence's length")
    return {"bias": nn.Parameter(torch.zeros(heads, 2 * seq_len - 1, dtype=torch.float64)),
            "projection": orthogonal_features(features, head_dim, seed)}


def flops(n: int, m: int, head_dim: int, causal: bool, features: int, seed: int) -> int:
    """Counts the FLOPs of one head's forward pass by FFT: transforms, products of spectra, φ, the product with φ(q).

    A transform of a real sequence costs 2.5 L log2 L, where L is n + m rounded up to a power of two. There are two for
    each feature and each channel of v and 1.
    """
    length = 1 << (n + m - 1).bit_length()
    channels = features * (head_dim + 1)
    transform = 5 * length * (length.bit_length() - 1) // 2
    return (2 * channels + 1) * transform + 6 * channels * (length // 2 + 1) + 2 * channels * n + \
        2 * features * head_dim * (n + m)


@register("kernelised-rpe", kind="approximate", paper="arXiv 2106.12566", flops=flops, cost="n log n", default=False,
          flash=False, options={"features": FEATURES, "seed": 0}, validate=validate, limits=limits,
          parameters=parameters,
          test_values={"features": (16, 1, 6)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, features: int, seed: int,
           params: Parameters) -> torch.Tensor:
    """Divides the weights e^(b_{j-i}) φ(q_i)·φ(k_j) by their sum."""
    bias, w = params["bias"], params["projection"].mT
    q, k = (x.to(dtype) / x.to(dtype).square().sum(-1, keepdim=True).sqrt() for x in (q, k))
    phi_q, phi_k = ((x @ w - 0.5).to(torch.promote_types(dtype, torch.float32)) for x in (q, k))
    phi_q, phi_k = phi_q.exp(), phi_k.exp()
    at_zero = bias.shape[1] // 2

    def kernel(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        ahead = (j - i).clamp(max=at_zero)  # only queries before the first key have more, and they see no key
        b = bias.to(q.dtype)[:, ahead + at_zero].masked_fill(~mask, -torch.inf)
        top = b.detach().amax(-1, keepdim=True)
        return (q @ k.mT) * (b - top.masked_fill(top == -torch.inf, 0)).exp()

    return weighted_mean(kernel, phi_q, phi_k, v.to(dtype), causal=causal, key_mask=key_mask)


def _features(q: torch.Tensor, k: torch.Tensor, key_mask: torch.Tensor | None,
              params: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes φ(q) and φ(k) in float32 or wider; the features of a masked key are 0.

    Raises ValueError for more keys than there are biases.
    """
    longest = params["bias"].shape[1] // 2 + 1
    if k.shape[2] > longest:
        raise ValueError(f"kernelised-rpe: {k.shape[2]} keys: its biases were built for seq_len={longest}; "
                         f"build it for {k.shape[2]}")
    wide = torch.promote_types(q.dtype, torch.float32)
    w = params["projection"].to(wide).mT
    phi_q, phi_k = ((normalize(x.to(wide), dim=-1) @ w - 0.5).exp() for x in (q, k))
    return phi_q, phi_k if key_mask is None else phi_k * key_mask[:, None, :, None]


@register("kernelised-rpe", backends=[eager])
def kernelised_rpe(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
                   key_mask: torch.Tensor | None, features: int, seed: int, params: Parameters) -> torch.Tensor:
    """Computes the n x m kernel matrix, which is easy to read."""
    phi_q, phi_k = _features(q, k, key_mask, params)
    N, M, groups = q.shape[2], k.shape[2], (k.shape[1], q.shape[1] // k.shape[1])
    i, j = masks.positions(N, M, q.device)
    b = params["bias"].to(phi_q.dtype)[:, j - i + params["bias"].shape[1] // 2]
    mask = masks.dense(masks.band(causal), N, M, q.device, key_mask)
    if mask is not None:
        b = b.masked_fill(~mask, _linear.NEVER)
    decay = (b - b.detach().amax(-1, keepdim=True)).exp()
    if mask is not None:
        decay = decay.masked_fill(~mask, 0)
    weights = (phi_q.unflatten(1, groups) @ phi_k.mT.unsqueeze(2)).flatten(1, 2) * decay
    weights = _linear.share(weights, weights.sum(-1, keepdim=True)).unflatten(1, groups)
    return (weights @ v.to(weights.dtype).unsqueeze(2)).flatten(1, 2).to(q.dtype)


def _features_at_once(each: int, device: str | torch.device) -> int:
    """Returns how many features a block has whose sequences are `each` numbers long."""
    return max(1, BLOCK.get(torch.device(device).type, BLOCK["cuda"]) // each)


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: the sequences of a block of features and φ, in float64."""
    length = 1 << (case.n + case.m - 1).bit_length()
    each = case.heads * length * (case.head_dim + 1)
    features = dict(case.options).get("features", FEATURES)
    block = each * min(features, _features_at_once(each, case.device))
    return Backend().peak_bytes(case) + 8 * (4 * block * (2 if case.grad else 1) + 2 * case.heads * case.n
                                             * (case.head_dim + features))


@register("kernelised-rpe", backends=[fft], peak_bytes=peak_bytes)
def by_fft(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None, features: int, seed: int, params: Parameters) -> torch.Tensor:
    """Convolves φ(k) [v, 1] of each feature with e^b along the sequence, for one block of features after the other."""
    phi_q, phi_k = (x.double() for x in _features(q, k, key_mask, params))
    B, H, N, D = q.shape
    G, M = k.shape[1:3]
    length = 1 << (N + M - 1).bit_length()
    # out_i needs e^b at j - i for i = M - N ... M - 1 and j = 0 ... M - 1; it is a kernel over i - j.
    at_zero = params["bias"].shape[1] // 2
    b = params["bias"].double()[:, at_zero - (M - 1):at_zero + N if not causal else at_zero + 1]
    e_b = (b - b.detach().amax(-1, keepdim=True)).exp().flip(1)  # i - j from -(N - 1), or 0, to M - 1
    ahead = 0 if causal else N - 1
    kernel = torch.fft.rfft(e_b, n=length).unflatten(0, (G, H // G))[:, :, None, None]  # (G, S, 1, 1, frequencies)
    v1 = torch.cat([v.double(), v.new_ones(B, G, M, 1, dtype=torch.float64)], -1)
    phi_q, phi_k, v1 = (x.mT.contiguous() for x in (phi_q, phi_k, v1))  # a sequence lies in one piece

    def block(phi_q: torch.Tensor, phi_k: torch.Tensor, v1: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        sequences = phi_k.unsqueeze(3) * v1.unsqueeze(2)  # (B, G, features, D + 1, M)
        spectrum = torch.fft.rfft(sequences, n=length).unsqueeze(2) * kernel
        sums = torch.fft.irfft(spectrum, n=length)[..., M - N + ahead:M + ahead].flatten(1, 2)
        return (phi_q.unsqueeze(3) * sums).sum(2)

    size = _features_at_once(B * H * length * (D + 1), q.device)
    total = v1.new_zeros(B, H, D + 1, N)
    for r in range(0, features, size):
        total = total + checkpoint(block, phi_q[:, :, r:r + size], phi_k[:, :, r:r + size], v1, kernel,
                                   use_reentrant=False, preserve_rng_state=False)
    total = total.mT
    sees = torch.ones(B, 1, N, 1, dtype=torch.bool, device=q.device) if key_mask is None else _sees(key_mask, N, causal)
    return (total[..., :D] / torch.where(sees, total[..., D:], 1) * sees).to(q.dtype)


def _sees(key_mask: torch.Tensor, n: int, causal: bool) -> torch.Tensor:
    """Marks which of n queries see a key, bool (B, 1, N, 1), since the FFT of zeros is noise."""
    upto = key_mask.cumsum(1)
    return ((upto[:, -n:] if causal else upto[:, -1:].expand(-1, n)) > 0)[:, None, :, None]
