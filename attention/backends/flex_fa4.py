"""FlexAttention with FlashAttention-4's kernels: torch.nn.attention.flex_attention with BACKEND="FLASH".

It needs torch 2.11 and flash-attn-4, and runs in half precision on Hopper and Blackwell GPUs.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from attention.backends import fa4, flex
from attention.backends.base import Case, wants_gradients


class FlexFA4(flex.Flex):
    """This backend compiles flex_attention into FlashAttention-4's kernels."""

    name = "flex-fa4"
    deterministic_backward = False
    kernels = fa4.KERNELS

    def missing(self, device: torch.device) -> str | None:
        return fa4.fa4.missing(device) or super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.dtype not in (torch.float16, torch.bfloat16):
            return f"FlashAttention-4 takes float16 and bfloat16, not {str(case.dtype).removeprefix('torch.')}"
        return fa4.wrong_gradients(case)

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend()


class Attend(flex.Attend):
    """An instance holds the compiled kernel of one caller."""

    kernel_options: ClassVar[dict[str, Any]] = {"BACKEND": "FLASH"}
    static = True  # the kernel takes no symbolic shapes

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, bias: Any = None,
                 **arguments: Any) -> torch.Tensor:
        group = q_BHND.shape[1] // k_BGMD.shape[1]
        if bias is not None and group > 1 and wants_gradients(q_BHND, k_BGMD, v_BGMD):
            k_BGMD, v_BGMD = (x.repeat_interleave(group, 1) for x in (k_BGMD, v_BGMD))  # see fa4.with_modifier
        return super().__call__(q_BHND, k_BGMD, v_BGMD, bias=bias, **arguments)


flex_fa4 = FlexFA4()
