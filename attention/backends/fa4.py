"""FlashAttention-4, the package flash-attn-4, `flash_attn.cute` (github.com/Dao-AILab/flash-attention); half precision
on Hopper and Blackwell GPUs.

PyTorch can put the same kernels under its own flash attention, for the whole process
(`torch.nn.attention.activate_flash_attention_impl("FA4")`, which imports the same package). Here they are called by
themselves, so that `sdpa-flash` stays what it says.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import Kernels
from attention.backends.flash_package import FlashPackage, call

# As the package's classes are called; no build of it was at hand to see them run.
KERNELS = {"cuda": Kernels(("(?i)FlashAttentionForward",), ("(?i)FlashAttentionBackward",))}


class FlashAttention4(FlashPackage):
    name = "fa4"
    title, modules = "FlashAttention-4", ("flash_attn", "flash_attn.cute", "cutlass")  # a parent before its child
    install = "pip install flash-attn-4"
    generations = (9, 10)
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, key_mask: None = None,
           softcap: float | None = None, sinks_H: torch.Tensor | None = None,
           deterministic: bool = False) -> torch.Tensor:
    """flash_attn_func, or flash_attn_varlen_func for packed sequences; sinks are the kernel's own."""
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

    told: dict[str, Any] = {"window_size": (None, None) if band.causal else (band.left, band.right)}
    if sinks_H is not None:
        told["learnable_sink"] = sinks_H
    out, _ = call(flash_attn_func, flash_attn_varlen_func, q_BHND, k_BGMD, v_BGMD, visible, softmax_scale=scale,
                  causal=band.causal, softcap=softcap or 0.0, deterministic=deterministic, **told)
    return out


fa4 = FlashAttention4()
