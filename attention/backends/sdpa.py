"""torch.nn.functional.scaled_dot_product_attention: its own choice of kernel, or one of its kernels.

`sdpa` lets PyTorch choose; `sdpa-math`, `sdpa-flash`, `sdpa-efficient` and `sdpa-cudnn` allow one
kernel each, and PyTorch raises where that one can't serve the call.
"""
from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attention import masks
from attention.backends.base import Backend, Case, score_bytes
from attention.backends.eager import may_be_blind


class SDPA(Backend):
    probes = True

    def __init__(self, name: str, kernel: SDPBackend | None = None, cuda_only: bool = False) -> None:
        self.name, self.kernel, self.cuda_only = name, kernel, cuda_only

    def missing(self, device: torch.device) -> str | None:
        if self.cuda_only and device.type != "cuda":
            return f"PyTorch has this kernel for CUDA GPUs only, not for {device.type}"
        return super().missing(device)

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend(self.kernel)

    def peak_bytes(self, case: Case) -> int:
        base = super().peak_bytes(case)
        if self.kernel == SDPBackend.MATH:
            return base + score_bytes(case, forward=4, backward=6)
        return base

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        """PyTorch says in warnings, kernel by kernel, why it used none."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lambda: _own_reason([str(w.message) for w in caught])


def _own_reason(messages: list[str]) -> str | None:
    """The last reason given that isn't just "disabled by us"."""
    lines = [m.split(" (Triggered internally")[0].strip() for m in messages]
    told = [line for line in lines if line and "not used because" not in line
            and "runtime disabled" not in line and "used because" not in line]
    return told[-1] if told else None


class Attend:
    """One caller's attention; keeps the last dense mask, as a model keeps it for all its layers."""

    def __init__(self, kernel: SDPBackend | None) -> None:
        self.kernel = kernel
        self.key: tuple | None = None
        self.mask: torch.Tensor | None = None

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, bias: Callable | None = None,
                 key_mask: torch.Tensor | None = None) -> torch.Tensor:
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        if band.causal and n == 1:
            band = masks.FULL  # the last query sees every key
        only_causal = band.causal and bias is None and key_mask is None
        mask, blind = None, None
        if only_causal and n < m and self._has_lower_right(q_BHND):
            mask = _lower_right(n, m)
        elif not only_causal or n != m:
            mask = self._dense(q_BHND, m, band, bias, key_mask)
            visible = masks.dense(band, n, m, q_BHND.device, key_mask) if may_be_blind(band, n, m, key_mask) else None
            if mask is not None and visible is not None:
                blind = ~visible.any(-1, keepdim=True)
                mask = mask | blind if mask.dtype == torch.bool else mask.masked_fill(blind, 0)
        with contextlib.nullcontext() if self.kernel is None else sdpa_kernel(self.kernel):
            out = scaled_dot_product_attention(q_BHND, k_BGMD, v_BGMD, attn_mask=mask, is_causal=only_causal and n == m,
                                               scale=scale, enable_gqa=q_BHND.shape[1] != k_BGMD.shape[1])
        return out if blind is None else out.masked_fill(blind, 0)

    def _has_lower_right(self, q: torch.Tensor) -> bool:
        """PyTorch's causal bias aligned to the end reaches its flash and efficient kernels on CUDA."""
        return q.is_cuda and self.kernel in (None, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)

    def _dense(self, q: torch.Tensor, m: int, band: masks.Band, bias: Callable | None,
               key_mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask as a tensor: bool, or the bias with -inf where masked (H, N, M)."""
        h, n = q.shape[1:3]
        key = (h, n, m, band, bias, q.dtype, q.device)
        if key_mask is None and key == self.key:
            return self.mask
        mask = masks.dense(band, n, m, q.device, key_mask)
        if bias is not None:
            heads = torch.arange(h, device=q.device)[:, None, None]
            added = bias(heads, *masks.positions(n, m, q.device)).to(q.dtype)
            mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
        if key_mask is None:
            self.key, self.mask = key, mask
        return mask


def _lower_right(n: int, m: int) -> torch.Tensor:
    from torch.nn.attention.bias import causal_lower_right  # brings torch._dynamo, two seconds

    return causal_lower_right(n, m)


sdpa = SDPA("sdpa")
math = SDPA("sdpa-math", SDPBackend.MATH)
flash = SDPA("sdpa-flash", SDPBackend.FLASH_ATTENTION)
efficient = SDPA("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION, cuda_only=True)
cudnn = SDPA("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION, cuda_only=True)
