"""Methods without quantisation: all weights have one dtype. The other methods are compared with these."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from models.quantization.method import Method, register


@register("fp32")
@dataclass(frozen=True)
class Float32(Method):
    """Single precision, IEEE 754."""

    dtype: torch.dtype = torch.float32
    dtypes = (torch.float32,)
    kinds = ()


@register("fp16")
@dataclass(frozen=True)
class Float16(Method):
    """Half precision, IEEE 754, has 10 bits of fraction and the largest value 65504."""

    dtype: torch.dtype = torch.float16
    dtypes = (torch.float16,)
    kinds = ()


@register("bf16")
@dataclass(frozen=True)
class BFloat16(Method):
    """bfloat16 (arXiv 1905.12322) has the range of float32 and 7 bits of fraction."""

    dtype: torch.dtype = torch.bfloat16
    dtypes = (torch.bfloat16,)
    kinds = ()
