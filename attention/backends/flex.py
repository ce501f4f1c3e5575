"""FlexAttention, always compiled (Dong et al., arXiv 2412.05496).

Past its recompile limit torch.compile runs the dense fallback without a word. Here every caller has
a code object of its own, so a cache of its own, and `fullgraph=True` turns the limit into an error.
"""
from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import Backend, Case, Unsupported


class Flex(Backend):
    name = "flex"
    compiled = True

    def missing(self, device: torch.device) -> str | None:
        if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            return "compiled FlexAttention needs a C++ compiler here; install g++"
        return super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.dtype == torch.float64:
            return "compiled FlexAttention has no float64"
        if case.device == "cpu" and case.grad:
            return "FlexAttention has no backward on the CPU"
        return None

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend()


def _compiled(device: torch.device) -> Callable[..., torch.Tensor]:
    """flex_attention, compiled, with a cache that no other caller fills."""
    from torch.nn.attention.flex_attention import flex_attention  # brings torch._dynamo, two seconds

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return flex_attention(q, k, v, **options)

    kernel.__code__ = kernel.__code__.replace()  # a copy: dynamo counts recompiles by code object
    # With dynamic shapes the C++ that inductor writes for the CPU does not compile (torch 2.11, 2.13).
    return torch.compile(kernel, fullgraph=True, dynamic=False if device.type == "cpu" else None)


class Attend:
    """One caller's compiled kernel and its last block mask."""

    def __init__(self) -> None:
        self.kernel: Callable[..., torch.Tensor] | None = None
        self.key: tuple | None = None
        self.options: dict[str, Any] = {}

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, bias: Callable | None = None,
                 key_mask: torch.Tensor | None = None) -> torch.Tensor:
        from torch._dynamo.exc import FailOnRecompileLimitHit
        from torch._inductor.exc import InductorError

        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        self.kernel = self.kernel or _compiled(q_BHND.device)
        key = (n, m, band, bias, q_BHND.device)
        if key_mask is not None or key != self.key:
            self.options = _express(n, m, band, bias, key_mask, q_BHND.device)
            self.key = None if key_mask is not None else key
        try:
            return self.kernel(q_BHND, k_BGMD, v_BGMD, scale=scale,
                               enable_gqa=q_BHND.shape[1] != k_BGMD.shape[1], **self.options)
        except FailOnRecompileLimitHit as error:
            limit = torch._dynamo.config.recompile_limit
            raise RuntimeError(f"flex: one module was called in more than {limit} shapes, each compiled anew; "
                               "build one module a shape, or use another backend") from error
        except InductorError as error:
            why = str(error).splitlines()[0].removeprefix("LoweringException: ")
            raise Unsupported(f"flex: torch.compile has no kernel for q {tuple(q_BHND.shape)}, "
                              f"k {tuple(k_BGMD.shape)} in {q_BHND.dtype}: {why}") from error


def _express(n: int, m: int, band: masks.Band, bias: Callable | None, key_mask: torch.Tensor | None,
             device: torch.device) -> dict[str, Any]:
    """band, bias and key mask as FlexAttention's block_mask and score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask

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
    if key_mask is not None:
        in_band = mask_mod

        def mask_mod(b, h, i, j):
            return key_mask[b, j] if in_band is None else in_band(b, h, i, j) & key_mask[b, j]

    options: dict[str, Any] = {}
    if mask_mod is not None:
        batch = None if key_mask is None else key_mask.shape[0]
        options["block_mask"] = create_block_mask(mask_mod, batch, None, n, m, device=device)
    if bias is not None:
        options["score_mod"] = lambda score, b, h, i, j: score + bias(h, position(i), j)
    return options


flex = Flex()
