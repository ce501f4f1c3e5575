"""FlashAttention-3 (Shah et al., arXiv 2407.08608); half precision on Hopper GPUs.

Two packages register its operators, `torch.ops.flash_attn_3`: flash_attn_interface, which you build yourself, and the
wheel of xformers 0.0.34, whose library has no soft cap. Later wheels have no such library.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attention import masks
from attention.backends.base import Case, Kernels
from attention.backends.cudnn import settle_runtime
from attention.backends.flash_package import FlashPackage, apart, packed_in, pages

KERNELS = {"cuda": Kernels(("flash::FlashAttnFwdSm",), ("flash::FlashAttnBwdSm",))}


class FlashAttention3(FlashPackage):
    """This backend calls FlashAttention-3's operators for training and prefill."""

    name = "fa3"
    title, install = "FlashAttention-3", "pip install xformers==0.0.34"
    generations = (9,)
    kernels = KERNELS

    def installed(self) -> bool:
        return importlib.util.find_spec("flash_attn_interface") is not None or _library() is not None

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def _library() -> Path | None:
    """Finds the library of operators in xformers' folder without importing xformers."""
    return _on_path("xformers/flash_attn_3/_C.so")


def _on_path(name: str) -> Path | None:
    return next((Path(folder, name) for folder in sys.path if Path(folder, name).is_file()), None)


@functools.cache
def operators() -> Any:
    """Loads and gives torch.ops.flash_attn_3. Raises ValueError if the library does not load or is another one."""
    if importlib.util.find_spec("flash_attn_interface") is not None:
        importlib.import_module("flash_attn_interface")
    elif library := _library():
        runtime = _on_path("nvidia/cuda_runtime/lib/libcudart.so.12")  # the library is linked with it
        with contextlib.suppress(RuntimeError):  # cuDNN's frontend refuses two runtimes; it says so where it is asked
            settle_runtime()
        try:
            if runtime is not None:
                ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
            torch.ops.load_library(library)
        except OSError as error:
            raise ValueError(f"{library} does not load: {error}; pip install nvidia-cuda-runtime-cu12") from error
    operators = torch.ops.flash_attn_3
    if not hasattr(operators, "fwd") or not hasattr(operators, "bwd"):
        raise ValueError("this flash_attn_interface registers no operators; build a newer one")
    return operators


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, key_mask: None = None,
           softcap: float | None = None, deterministic: bool = False) -> torch.Tensor:
    """Calls the operators, also on packed sequences, the only `visible` it takes -> (B, H, N, D).

    Raises ValueError for another `visible`.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BHND, k_BGMD, v_BGMD))
    left, right = (-1 if side is None else side for side in (band.left, band.right))
    arguments: dict[str, Any] = {"softmax_scale": scale, "is_causal": band.causal, "softcap": softcap or 0.0,
                                 "window_size_left": left, "window_size_right": -1 if band.causal else right}
    if visible is None:
        out = _Attention.apply(q, k, v, arguments, deterministic)
    else:
        arguments |= packed_in(visible, len(q))
        out = _Attention.apply(*(x.flatten(0, 1) for x in (q, k, v)), arguments, deterministic)
        out = out.view(*q.shape[:3], -1)
    return out.transpose(1, 2)


class _Attention(torch.autograd.Function):
    """Runs the operators forward and backward, on (B, N, H, D) or packed (B N, H, D)."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, arguments: dict[str, Any],
                deterministic: bool) -> torch.Tensor:
        q, k, v = (_rows(x) for x in (q, k, v))
        out, lse, *_ = operators().fwd(q, k, v, **arguments, num_splits=1)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.arguments = {**arguments, "deterministic": deterministic}
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        operators().bwd(_rows(grad_out), q, k, v, out, lse, dq=dq, dk=dk, dv=dv, **ctx.arguments)
        return dq, dk, dv, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Copies x if the channels of a row are not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


class Decode(FlashAttention3):
    """This backend attends with few queries to a cache, contiguous or in pages.

    It cuts the cache along the keys into as many parts as the GPU has room for. It has no backward pass.
    """

    def __init__(self, name: str, paged: bool = False) -> None:
        self.name, self.paged = name, paged

    def refuses(self, case: Case) -> str | None:
        if case.grad:
            return "FlashAttention-3 split along the keys has no backward pass; decode under torch.no_grad()"
        return super().refuses(case)

    def attend(self) -> Callable[..., torch.Tensor]:
        return functools.partial(from_cache, paged=self.paged)

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        return self.attend()


def from_cache(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
               band: masks.Band = masks.FULL, key_mask: None = None, paged: bool = False) -> torch.Tensor:
    """Calls the forward operator on a cache -> (B, H, N, D).

    A cache in whole pages is not copied, whether (B, G, M, D) or (B, M, G, D) in memory; any other is.
    """
    q, k, v = apart(q_BHND, k_BGMD, v_BGMD) if paged else (q_BHND, k_BGMD, v_BGMD)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    arguments: dict[str, Any] = {"softmax_scale": scale, "is_causal": band.causal, "num_splits": 0}  # it chooses
    if paged:
        lengths = torch.full((len(k),), k.shape[1], dtype=torch.int32, device=k.device)
        table, k, v = pages(k, v)
        arguments |= {"page_table": table, "seqused_k": lengths}
    out, *_ = operators().fwd(*(_rows(x) for x in (q, k, v)), **arguments)
    return out.transpose(1, 2).reshape(*q_BHND.shape[:3], -1)


fa3 = FlashAttention3()
fa3_decode = Decode("fa3")
fa3_paged = Decode("fa3-paged", paged=True)
