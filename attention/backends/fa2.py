"""FlashAttention-2 by the package flash-attn (Dao, arXiv 2307.08691); half precision on CUDA GPUs."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import PRODUCT, SOFTMAX, Case, Kernels
from attention.backends.flash_package import FlashPackage, apart, packed_in, pages

# PyTorch has a copy of these kernels in the namespace pytorch_flash.
KERNELS = {"cuda": Kernels((r"(?<!pytorch_)flash::flash_fwd",), (r"(?<!pytorch_)flash::flash_bwd",),
                           never=(PRODUCT["cuda"], SOFTMAX["cuda"]))}


class FlashAttention2(FlashPackage):
    """This backend is the package flash-attn."""

    name = "fa2"
    title, install = "flash-attn", "pip install attention-perf[gpu]"
    modules = "flash_attn", "flash_attn_2_cuda"  # flash-attn-4 brings a folder flash_attn as well
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, visible: masks.Visible | None = None, bias: Callable | None = None,
           key_mask: None = None, softcap: float | None = None, deterministic: bool = False) -> torch.Tensor:
    """Calls flash_attn_func or, for packed sequences, flash_attn_varlen_func -> (B, H, N, D).

    The only `visible` it takes is that of packed sequences, which has `lengths`; the only `bias` is ALiBi's, which has
    `slopes_H`. Raises ValueError for others.
    """
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if bias is not None and not hasattr(bias, "slopes_H"):
        raise ValueError("flash-attn takes no bias but ALiBi's")
    sides = tuple(-1 if side is None else side for side in (band.left, band.right))
    arguments: dict[str, Any] = {"softmax_scale": scale, "causal": band.causal, "softcap": softcap or 0.0,
                                 "window_size": (-1, -1) if band.causal else sides, "deterministic": deterministic,
                                 "alibi_slopes": getattr(bias, "slopes_H", None)}
    q, k, v = (x.transpose(1, 2) for x in (q_BHND, k_BGMD, v_BGMD))
    if visible is None:
        result = flash_attn_func(q, k, v, **arguments)
    else:
        arguments |= packed_in(visible, len(q))
        result = flash_attn_varlen_func(*(x.flatten(0, 1) for x in (q, k, v)), **arguments)
    return result.view(*q.shape[:3], -1).transpose(1, 2)


class KVCache(FlashAttention2):
    """This backend attends with few queries to a cache, contiguous or in pages, by flash_attn_with_kvcache.

    It has no backward pass.
    """

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
    """Calls flash_attn_with_kvcache -> (B, H, N, D).

    A cache in whole pages is not copied, whether (B, G, M, D) or (B, M, G, D) in memory; any other is.
    """
    from flash_attn import flash_attn_with_kvcache

    q, k, v = apart(q_BHND, k_BGMD, v_BGMD) if paged else (q_BHND, k_BGMD, v_BGMD)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # From a plain number flash-attn would make one length for each page, not for each sequence.
    lengths = torch.full((len(k),), k.shape[1], dtype=torch.int32, device=k.device)
    arguments: dict[str, Any] = {"cache_seqlens": lengths, "softmax_scale": scale, "causal": band.causal}
    if paged:
        arguments["block_table"], k, v = pages(k, v)
    return flash_attn_with_kvcache(q, k, v, **arguments).transpose(1, 2).reshape(*q_BHND.shape[:3], -1)


fa2 = FlashAttention2()
kvcache = KVCache("fa2")
paged = KVCache("fa2-paged", paged=True)
