"""FlashAttention-4 by the package flash-attn-4, `flash_attn.cute` (github.com/Dao-AILab/flash-attention); half
precision on Hopper and Blackwell GPUs. The code is for 4.0.0b36.

ALiBi and the soft cap are modifiers of the score that are compiled into the kernels (`_fa4_scores`). ALiBi skips blocks
that are too far away to matter (`near`). PyTorch could use the same kernels in its own flash attention, for the whole
process (`torch.nn.attention.activate_flash_attention_impl("FA4")`). Here they are called directly, so `sdpa-flash`
remains PyTorch's kernel.
"""
from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import Case, Kernels, wants_gradients
from attention.backends.flash_package import FlashPackage, packed_in
from attention.backends.near import SIZE, select

KERNELS = {"cuda": Kernels(("FlashAttentionForwardSm",), ("FlashAttentionBackwardSm",))}
BACKWARD = (64, 128)  # head dims


class FlashAttention4(FlashPackage):
    """This backend is the package flash-attn-4."""

    name = "fa4"
    title, install = "FlashAttention-4", "pip install --pre flash-attn-4[cu13]"
    generations = (9, 10)
    kernels = KERNELS

    def installed(self) -> bool:
        return has_flash_attn_4()

    def refuses(self, case: Case) -> str | None:
        return wrong_gradients(case) or super().refuses(case)

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def wrong_gradients(case: Case) -> str | None:
    """Gives the reason why the package's gradients can't be trusted; None for head dims where they are right.

    With 4.0.0b36 on an H200, at head dim 40 and n = 130, dq has a relative error of 1.95. Head dims 64 and 128 are
    right; others were not tried.
    """
    if case.grad and case.head_dim not in BACKWARD:
        return f"FlashAttention-4's gradients are known to be right at head dims 64 and 128 only, not {case.head_dim}"
    return None


def has_flash_attn_4() -> bool:
    """Tells whether the package is installed, not by its modules: flash-attn 2.8.3 has an old `flash_attn.cute`."""
    try:
        importlib.metadata.version("flash-attn-4")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, bias: Any = None, key_mask: None = None,
           softcap: float | None = None, sinks_H: torch.Tensor | None = None,
           deterministic: bool = False) -> torch.Tensor:
    """Calls the package's functions -> (B, H, N, D); the kernel itself has sinks.

    The only `visible` it takes is that of packed sequences, the only `bias` ALiBi's. Raises ValueError for others.
    """
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

    if bias is not None or softcap is not None:
        return with_modifier(q_BHND, k_BGMD, v_BGMD, scale, band, bias, softcap, deterministic)
    q, k, v = (x.transpose(1, 2) for x in (q_BHND, k_BGMD, v_BGMD))
    arguments: dict[str, Any] = {"softmax_scale": scale, "causal": band.causal, "deterministic": deterministic,
                                 "window_size": (None, None) if band.causal else (band.left, band.right)}
    if sinks_H is not None:
        arguments["learnable_sink"] = sinks_H
    if visible is None:
        out, _ = flash_attn_func(q, k, v, **arguments)
    else:
        arguments |= packed_in(visible, len(q))
        out, _ = flash_attn_varlen_func(*(x.flatten(0, 1) for x in (q, k, v)), **arguments)
    return out.view(*q.shape[:3], -1).transpose(1, 2)


def with_modifier(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, scale: float, band: masks.Band,
                  bias: Any, softcap: float | None, deterministic: bool) -> torch.Tensor:
    """Computes attention with ALiBi or a soft cap -> (B, H, N, D).

    Raises ValueError for a bias that is not ALiBi's, and for deterministic gradients of ALiBi.
    """
    from attention.backends import _fa4_scores

    n, m = q_BHND.shape[2], k_BGMD.shape[2]
    arguments: dict[str, Any] = {"softmax_scale": scale}
    if bias is None:
        arguments |= {"causal": band.causal}
        scores = _fa4_scores.softcap(softcap)
        near = None
    else:
        if not hasattr(bias, "slopes_H"):
            raise ValueError("FlashAttention-4 takes no bias but ALiBi's")
        if n > m:
            raise ValueError("ALiBi that skips takes no more queries than keys")
        if deterministic and wants_gradients(q_BHND, k_BGMD, v_BGMD):
            raise ValueError("the blocks that ALiBi keeps add gradients in any order; pass deterministic=False")
        scores = _fa4_scores.alibi(bias.slopes, m - n, band.causal)
        near = select(q_BHND.detach(), k_BGMD.detach(), bias.slopes_H, scale, band.causal)
        if k_BGMD.shape[1] < q_BHND.shape[1] and wants_gradients(q_BHND, k_BGMD, v_BGMD):
            # On Hopper the backward pass of 4.0.0b36 passes a wrong head and query to the modifier of grouped heads.
            k_BGMD, v_BGMD = (x.repeat_interleave(q_BHND.shape[1] // x.shape[1], 1) for x in (k_BGMD, v_BGMD))
    q, k, v = (x.transpose(1, 2) for x in (q_BHND, k_BGMD, v_BGMD))
    return _Attention.apply(q, k, v, arguments, scores, near, deterministic).transpose(1, 2)


class _Attention(torch.autograd.Function):
    """Runs the package's two kernels with a modifier of the score.

    The package's public function passes one modifier to both kernels, but the forward pass has a faster form of it.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, arguments: dict[str, Any], scores: Any,
                near: Any, deterministic: bool) -> torch.Tensor:
        from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
        from flash_attn.cute.interface import _flash_attn_fwd

        arguments, back = dict(arguments), {}
        if near is not None:
            arguments["mask_mod"] = scores.mask
            back["block_sparse_tensors"] = BlockSparseTensorsTorch(*near[4:], block_size=(SIZE, SIZE))
            near = BlockSparseTensorsTorch(*near[:4], block_size=(SIZE, SIZE))
        out, lse, *_ = _flash_attn_fwd(q, k, v, score_mod=scores.forward, block_sparse_tensors=near, return_lse=True,
                                       **arguments)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.arguments = arguments | back | {"score_mod": scores.again, "score_mod_bwd": scores.backward,
                                  "deterministic": deterministic}
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from flash_attn.cute.interface import _flash_attn_bwd

        q, k, v, out, lse = ctx.saved_tensors
        return *_flash_attn_bwd(q, k, v, out, grad_out, lse, **ctx.arguments)[:3], None, None, None, None


fa4 = FlashAttention4()
