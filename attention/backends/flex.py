"""FlexAttention, always compiled (Dong et al., arXiv 2412.05496).

Past its recompile limit torch.compile runs the dense fallback without a word: see `compiling` for what stops it here.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import PRODUCT, SOFTMAX, Backend, Case, Kernels
from attention.backends.compiling import compiled, no_compiler, refusals
from attention.backends.sinks import with_sinks

# On the CPU, where it has no backward pass, the profiler names the compiled graph, not the C++ kernel in it.
KERNELS = {"cpu": Kernels(("^CompiledFxGraph$",), (), never=(PRODUCT["cpu"], SOFTMAX["cpu"])),
           "cuda": Kernels((r"triton_tem\w*flex_attention(?!_backward)",), (r"triton_tem\w*flex_attention_backward",),
                           never=(PRODUCT["cuda"], SOFTMAX["cuda"]))}


class Flex(Backend):
    name = "flex"
    compiled = True
    kernels = KERNELS

    def missing(self, device: torch.device) -> str | None:
        return no_compiler(device) or super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.dtype == torch.float64:
            return "compiled FlexAttention has no float64"
        if case.device == "cpu" and case.grad:
            return "FlexAttention has no backward on the CPU"
        return None

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend()


def _compiled(device: torch.device) -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # brings torch._dynamo, two seconds

    # With dynamic shapes the C++ that inductor writes for the CPU does not compile (torch 2.11, 2.13).
    return compiled(flex_attention, dynamic=False if device.type == "cpu" else None)


class Attend:
    """One caller's compiled kernel and its last block mask."""

    def __init__(self) -> None:
        self.kernel: Callable[..., torch.Tensor] | None = None
        self.key: tuple | None = None
        self.options: dict[str, Any] = {}

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, visible: masks.Visible | None = None,
                 bias: Callable | None = None, key_mask: torch.Tensor | None = None,
                 softcap: float | None = None, sinks_H: torch.Tensor | None = None) -> torch.Tensor:
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        self.kernel = self.kernel or _compiled(q_BHND.device)
        key = (n, m, band, visible, bias, softcap, q_BHND.device)
        if key_mask is not None or key != self.key:
            self.options = _express(q_BHND, m, band, visible, bias, key_mask, softcap)
            self.key = None if key_mask is not None else key
        gqa = q_BHND.shape[1] != k_BGMD.shape[1]
        with refusals("flex", q_BHND, k_BGMD):
            if sinks_H is None:
                return self.kernel(q_BHND, k_BGMD, v_BGMD, scale=scale, enable_gqa=gqa, **self.options)
            out, aux = self.kernel(q_BHND, k_BGMD, v_BGMD, scale=scale, enable_gqa=gqa, return_aux=_sums(),
                                   **self.options)
            return with_sinks(out, aux.lse, sinks_H)


def _sums() -> Any:
    """What asks FlexAttention for the log-sum-exp of each row's scores."""
    from torch.nn.attention.flex_attention import AuxRequest

    return AuxRequest(lse=True)


def _express(q: torch.Tensor, m: int, band: masks.Band, visible: masks.Visible | None, bias: Callable | None,
             key_mask: torch.Tensor | None, softcap: float | None) -> dict[str, Any]:
    """Masks, bias and soft cap as FlexAttention's block_mask and score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask

    heads, n, device = q.shape[1], q.shape[2], q.device
    # Where queries stand, counted in keys; a tensor, since a number would be compiled in, length by length.
    offset = None if n == m else torch.tensor(m - n, device=device)

    def position(i: torch.Tensor) -> torch.Tensor:
        return i if offset is None else i + offset

    if band.causal and n == 1:
        band = masks.FULL
    mask_mod = None
    if band != masks.FULL:
        def mask_mod(b, h, i, j):
            return band(position(i), j)
    if visible is not None:
        along = mask_mod

        def mask_mod(b, h, i, j):
            seen = visible(h, position(i), j)
            return seen if along is None else along(b, h, i, j) & seen
    if key_mask is not None:
        in_band = mask_mod

        def mask_mod(b, h, i, j):
            return key_mask[b, j] if in_band is None else in_band(b, h, i, j) & key_mask[b, j]

    options: dict[str, Any] = {}
    if mask_mod is not None:
        batch = None if key_mask is None else key_mask.shape[0]
        by_head = visible is not None and getattr(visible, "by_head", True)
        options["block_mask"] = create_block_mask(mask_mod, batch, heads if by_head else None, n, m, device=device)
    if softcap is not None or bias is not None:
        def score_mod(score, b, h, i, j):
            if softcap is not None:
                score = softcap * torch.tanh(score / softcap)
            return score if bias is None else score + bias(h, position(i), j)

        options["score_mod"] = score_mod
    if q.is_cuda and q.itemsize == 2 and (kernel := getattr(bias, "kernel_options", None)):
        options["kernel_options"] = kernel
    return options


class FlexSums(Flex):
    """FlexAttention asked for its log-sum-exp as well."""

    def refuses(self, case: Case) -> str | None:
        if case.device == "cpu":
            return "compiled FlexAttention gives no log-sum-exp on the CPU, and sinks need it"
        return super().refuses(case)


flex = Flex()
flex_sums = FlexSums()
