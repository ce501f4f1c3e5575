"""FlashAttention-2, the flash-attn package (Dao, arXiv 2307.08691); half precision on CUDA GPUs."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import PRODUCT, SOFTMAX, Case, Kernels
from attention.backends.flash_package import FlashPackage, call
from attention.backends.sinks import wants_gradients, with_sinks

# PyTorch's own copy of these kernels lives in the namespace pytorch_flash.
KERNELS = {"cuda": Kernels((r"(?<!pytorch_)flash::flash_fwd",), (r"(?<!pytorch_)flash::flash_bwd",),
                           never=(PRODUCT["cuda"], SOFTMAX["cuda"]))}

PAGE = 256  # keys; the kernel takes multiples


class FlashAttention2(FlashPackage):
    name = "fa2"
    title, modules, install = "flash-attn", ("flash_attn",), "pip install attention-perf[gpu]"
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, bias: Callable | None = None,
           key_mask: None = None, softcap: float | None = None, sinks_H: torch.Tensor | None = None,
           deterministic: bool = False) -> torch.Tensor:
    """flash_attn_func, or flash_attn_varlen_func for packed sequences, the one `visible` it knows (by its `lengths`);
    the one `bias` it knows is ALiBi's, by its `slopes_H`."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if bias is not None and not hasattr(bias, "slopes_H"):
        raise ValueError("flash-attn takes no bias but ALiBi's")
    if sinks_H is not None and wants_gradients(q_BHND, k_BGMD, v_BGMD, sinks_H):
        raise ValueError("flash-attn gives its log-sum-exp no gradient, which sinks need; use flex or eager")
    sides = tuple(-1 if side is None else side for side in (band.left, band.right))
    out, lse = call(flash_attn_func, flash_attn_varlen_func, q_BHND, k_BGMD, v_BGMD, visible, softmax_scale=scale,
                    causal=band.causal, window_size=(-1, -1) if band.causal else sides, softcap=softcap or 0.0,
                    alibi_slopes=getattr(bias, "slopes_H", None), deterministic=deterministic,
                    return_attn_probs=sinks_H is not None)
    if sinks_H is None:
        return out
    assert lse is not None
    return with_sinks(out, lse, sinks_H)


class KVCache(FlashAttention2):
    """flash_attn_with_kvcache: few queries against a cache, contiguous or in pages; no backward pass."""

    def __init__(self, name: str, paged: bool = False) -> None:
        self.name, self.paged = name, paged

    def refuses(self, case: Case) -> str | None:
        if case.grad:
            return "flash-attn's kernel for a KV cache has no backward pass; decode under torch.no_grad()"
        return super().refuses(case)

    def attend(self) -> Callable[..., torch.Tensor]:
        return functools.partial(from_cache, paged=self.paged)

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        return self.attend()


def from_cache(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
               band: masks.Band = masks.FULL, key_mask: None = None, paged: bool = False) -> torch.Tensor:
    """flash_attn_with_kvcache. A cache laid out (B, M, G, D) in whole pages is paged where it lies; any other is
    copied first."""
    from flash_attn import flash_attn_with_kvcache

    k, v = (x.transpose(1, 2) for x in (k_BGMD, v_BGMD))
    # Of a plain number flash-attn makes one length a page, not one a sequence.
    lengths = torch.full((len(k),), k.shape[1], dtype=torch.int32, device=k.device)
    told: dict[str, Any] = {"cache_seqlens": lengths, "softmax_scale": scale, "causal": band.causal}
    if paged:
        pages = -(-k.shape[1] // PAGE)
        told["block_table"] = torch.arange(len(k) * pages, dtype=torch.int32, device=k.device).view(-1, pages)
        k, v = (_pages(x, pages) for x in (k, v))
    return flash_attn_with_kvcache(q_BHND.transpose(1, 2), k, v, **told).transpose(1, 2)


def _pages(cache_BMGD: torch.Tensor, pages: int) -> torch.Tensor:
    """(B x pages, PAGE, G, D); the last page of a sequence is filled up with zeros."""
    missing = pages * PAGE - cache_BMGD.shape[1]
    whole = torch.nn.functional.pad(cache_BMGD, (0, 0, 0, 0, 0, missing)) if missing else cache_BMGD
    return whole.unflatten(1, (pages, PAGE)).flatten(0, 1)


fa2 = FlashAttention2()
kvcache = KVCache("fa2")
paged = KVCache("fa2-paged", paged=True)
