"""PyTorch's torch.nn.functional.scaled_dot_product_attention, by the kernel it chooses or by a certain one.

`sdpa` lets PyTorch choose. `sdpa-math`, `sdpa-flash`, `sdpa-efficient` and `sdpa-cudnn` allow one kernel each, and
PyTorch raises an error if that kernel can't serve the call.
"""
from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attention import masks
from attention.backends.base import FUSED, SOFTMAX, Backend, Case, Kernels, Unsupported, score_bytes
from attention.backends.eager import may_be_blind

# Names of PyTorch's fused kernels, forward and backward. On the CPU there is one.
_CPU = "^aten::_scaled_dot_product_flash_attention_for_cpu"
_CUDA = {SDPBackend.FLASH_ATTENTION: ("pytorch_flash::flash_fwd", "pytorch_flash::flash_bwd"),
         SDPBackend.EFFICIENT_ATTENTION: ("fmha_cutlassF", "fmha_cutlassB"),
         SDPBackend.CUDNN_ATTENTION: (r"cudnn\w*_sdpa\w*fprop", r"cudnn\w*_sdpa\w*bprop")}
# The math kernel looks for rows without a key. Its backward pass is the same as that of any dense attention.
_MATH = {"cpu": Kernels(("^aten::_scaled_dot_product_attention_math",), (SOFTMAX["cpu"],)),
         "cuda": Kernels(("isneginf_kernel",), (SOFTMAX["cuda"],), never=(FUSED["cuda"],))}


def _kernels(*allowed: SDPBackend) -> dict[str, Kernels]:
    """Gives the names that show that one of these fused kernels ran."""
    forward, backward = zip(*(_CUDA[kernel] for kernel in allowed), strict=True)
    return {"cpu": Kernels((f"{_CPU}$",), (f"{_CPU}_backward$",), never=(SOFTMAX["cpu"],)),
            "cuda": Kernels(forward, backward, never=(SOFTMAX["cuda"],))}


class SDPA(Backend):
    """This backend calls PyTorch's function with one `kernel` allowed; None lets PyTorch choose."""

    probes = True

    def __init__(self, name: str, kernel: SDPBackend | None = None, cuda_only: bool = False) -> None:
        self.name, self.kernel, self.cuda_only = name, kernel, cuda_only
        self.kernels = _MATH if kernel == SDPBackend.MATH else _kernels(*([kernel] if kernel else _CUDA))

    def expects(self, case: Case) -> Kernels | None:
        """Allows the math kernel too where PyTorch chooses and no fused kernel takes the call.

        On a GPU that is in float64, for head dims that are no multiple of 16 bytes, and for heads that share keys in
        float32.
        """
        aligned = case.head_dim * case.dtype.itemsize % 16 == 0
        shared = case.kv_heads != case.heads and case.dtype == torch.float32
        if self.kernel is None and case.device != "cpu" and (case.dtype == torch.float64 or not aligned or shared):
            fused, dense = self.kernels["cuda"], _MATH["cuda"]
            return Kernels(fused.forward + dense.forward, fused.backward + dense.backward)
        return super().expects(case)

    def missing(self, device: torch.device) -> str | None:
        if self.cuda_only and device.type != "cuda":
            return f"PyTorch has this kernel for CUDA GPUs only, not for {device.type}"
        return super().missing(device)

    def scatters(self, case: Case) -> str | None:
        """Asks for PyTorch's process-wide switch, which its fused kernels read when the backward pass runs."""
        if not case.grad or torch.device(case.device).type != "cuda" or self.kernel == SDPBackend.MATH:
            return None
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            return None
        return ("PyTorch's fused backward passes add gradients in any order unless "
                "torch.use_deterministic_algorithms(True) is on; turn that on, or use a backend that needs it not")

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend(self.kernel)

    def peak_bytes(self, case: Case) -> int:
        base = super().peak_bytes(case)
        if self.kernel == SDPBackend.MATH:
            return base + score_bytes(case, forward=4, backward=6)
        return base

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        """Collects PyTorch's warnings, which say of each kernel why it was not used."""
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            yield lambda: _last_reason([str(w.message) for w in messages])


def _last_reason(messages: list[str]) -> str | None:
    """Gives the last message that holds a reason, not only that this backend switched a kernel off."""
    lines = [m.split(" (Triggered internally")[0].strip() for m in messages]
    reasons = [line for line in lines if line and "not used because" not in line
               and "runtime disabled" not in line and "used because" not in line]
    return reasons[-1] if reasons else None


class Attend:
    """An instance computes attention for one caller and stores the last dense mask, as a model does for its layers."""

    def __init__(self, kernel: SDPBackend | None) -> None:
        self.kernel = kernel
        self.key: tuple | None = None
        self.mask: torch.Tensor | None = None

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, visible: masks.Visible | None = None,
                 bias: Callable | None = None, key_mask: torch.Tensor | None = None) -> torch.Tensor:
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        if band.causal and n == 1:
            band = masks.FULL  # the last query sees every key
        only_causal = band.causal and bias is None and key_mask is None and visible is None
        mask, blind = None, None
        if only_causal and n < m and self._has_lower_right(q_BHND):
            mask = _lower_right(n, m)
        elif not only_causal or n != m:
            mask = self._dense(q_BHND, m, band, visible, bias, key_mask)
            keep = (masks.dense(band, n, m, q_BHND.device, key_mask, visible, q_BHND.shape[1])
                    if may_be_blind(band, n, m, key_mask, visible) else None)
            if mask is not None and keep is not None:
                blind = ~keep.any(-1, keepdim=True)
                mask = mask | blind if mask.dtype == torch.bool else mask.masked_fill(blind, 0)
        with self._kernels(q_BHND, mask):
            out = scaled_dot_product_attention(q_BHND, k_BGMD, v_BGMD, attn_mask=mask, is_causal=only_causal and n == m,
                                               scale=scale, enable_gqa=q_BHND.shape[1] != k_BGMD.shape[1])
        return out if blind is None else out.masked_fill(blind, 0)

    def _kernels(self, q: torch.Tensor, mask: torch.Tensor | None) -> contextlib.AbstractContextManager:
        """Restricts the kernels that PyTorch may choose from."""
        if self.kernel is not None:
            return sdpa_kernel(self.kernel)
        if q.is_cuda and mask is not None and torch.is_grad_enabled():
            # Seen with torch 2.11 on an H200: cuDNN's dq is NaN under a mask where scores are in the hundreds.
            return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
        return contextlib.nullcontext()

    def _has_lower_right(self, q: torch.Tensor) -> bool:
        """Tells whether PyTorch's causal mask aligned to the end works: on CUDA, by the flash and efficient kernels."""
        return q.is_cuda and self.kernel in (None, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)

    def _dense(self, q: torch.Tensor, m: int, band: masks.Band, visible: masks.Visible | None,
               bias: Callable | None, key_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Builds the mask as a tensor: bool, or the bias with -inf at masked keys (1, H, N, M)."""
        h, n = q.shape[1:3]
        key = (h, n, m, band, visible, bias, q.dtype, q.device)
        if key_mask is None and key == self.key:
            return self.mask
        mask = masks.dense(band, n, m, q.device, key_mask, visible, h)
        if bias is not None:
            heads = torch.arange(h, device=q.device)[:, None, None]
            numbers = bias(heads, *masks.positions(n, m, q.device)).to(mask_dtype(q, bias))
            mask = numbers if mask is None else numbers.masked_fill(~mask, -torch.inf)
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(0)  # with 3 dimensions PyTorch runs its math path on the CPU
        if key_mask is None:
            self.key, self.mask = key, mask
        return mask


def mask_dtype(q: torch.Tensor, bias: Callable) -> torch.dtype:
    """Chooses the dtype of a bias as a mask: that of q, but of distances at least float32, since 8 bits hold none above
    256. On a GPU PyTorch's kernels take no other than that of q: raises Unsupported."""
    if not hasattr(bias, "slopes_H") or q.dtype.itemsize > 2:
        return q.dtype
    if q.is_cuda:
        raise Unsupported(f"PyTorch takes ALiBi's distances as a mask in {str(q.dtype).removeprefix('torch.')} here, "
                          "which rounds them to a few bits; use flex, or float32")
    return torch.float32


def _lower_right(n: int, m: int) -> torch.Tensor:
    from torch.nn.attention.bias import causal_lower_right  # imports torch._dynamo, two seconds

    return causal_lower_right(n, m)


sdpa = SDPA("sdpa")
math = SDPA("sdpa-math", SDPBackend.MATH)
flash = SDPA("sdpa-flash", SDPBackend.FLASH_ATTENTION)
efficient = SDPA("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION, cuda_only=True)
cudnn = SDPA("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION, cuda_only=True)
