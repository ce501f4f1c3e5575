"""FlashAttention-3, the package flash_attn_interface (Shah et al., arXiv 2407.08608); half precision on Hopper GPUs."""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Kernels
from attention.backends.flash_package import FlashPackage, call
from attention.backends.sinks import wants_gradients, with_sinks

# As the package's sources name them; no build of it was at hand to see them run.
KERNELS = {"cuda": Kernels(("flash::FlashAttnFwdSm",), ("flash::FlashAttnBwdSm",))}


class FlashAttention3(FlashPackage):
    name = "fa3"
    title, modules = "FlashAttention-3", ("flash_attn_interface",)
    install = "build the folder hopper of github.com/Dao-AILab/flash-attention"
    generations = (9,)
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, key_mask: None = None,
           softcap: float | None = None, sinks_H: torch.Tensor | None = None,
           deterministic: bool = False) -> torch.Tensor:
    """flash_attn_func, or flash_attn_varlen_func for packed sequences, the one `visible` it knows."""
    from flash_attn_interface import flash_attn_func, flash_attn_varlen_func

    if sinks_H is not None and wants_gradients(q_BHND, k_BGMD, v_BGMD, sinks_H):
        raise ValueError("FlashAttention-3 gives its log-sum-exp no gradient, which sinks need; use flex or eager")
    sides = tuple(-1 if side is None else side for side in (band.left, band.right))
    asked = {} if sinks_H is None else {"return_attn_probs": True}  # which not every build knows
    out, lse = call(flash_attn_func, flash_attn_varlen_func, q_BHND, k_BGMD, v_BGMD, visible, softmax_scale=scale,
                    causal=band.causal, window_size=(-1, -1) if band.causal else sides, softcap=softcap or 0.0,
                    deterministic=deterministic, **asked)
    if sinks_H is None:
        return out
    assert lse is not None
    return with_sinks(out, lse, sinks_H)


fa3 = FlashAttention3()
