"""FlashAttention-2, the flash-attn package (Dao, arXiv 2307.08691); half precision on CUDA GPUs."""
from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from attention import masks
from attention.backends.base import Backend, Case


class FlashAttention2(Backend):
    name = "fa2"
    probes = True  # which head dims a wheel holds is the wheel's own knowledge
    deterministic_backward = False

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"flash-attn runs on CUDA GPUs only, not on {device.type}"
        if importlib.util.find_spec("flash_attn") is None:
            return "flash-attn is not installed; pip install attention-perf[gpu]"
        return super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.key_mask:
            return "flash-attn takes no padding mask; use a backend that does, or pass sequences of one length"
        if not case.causal and "window" in dict(case.options) and case.n > case.m:
            # Seen with 2.8.3 on an H200: n = 200, m = 1, window 16 gives 13.7 where 0 belongs.
            return "flash-attn is wrong in rows that see no key, as a window has them when queries outnumber keys"
        return None

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, bias: Callable | None = None, key_mask: None = None) -> torch.Tensor:
    """flash_attn_func; the one `bias` it knows is ALiBi's, by its `slopes_H`."""
    from flash_attn import flash_attn_func

    if bias is not None and not hasattr(bias, "slopes_H"):
        raise ValueError("flash-attn takes no bias but ALiBi's")
    sides = tuple(-1 if side is None else side for side in (band.left, band.right))
    out_BNHD = flash_attn_func(q_BHND.transpose(1, 2), k_BGMD.transpose(1, 2), v_BGMD.transpose(1, 2),
                               softmax_scale=scale, causal=band.causal, window_size=(-1, -1) if band.causal else sides,
                               alibi_slopes=getattr(bias, "slopes_H", None))
    return out_BNHD.transpose(1, 2)


fa2 = FlashAttention2()
