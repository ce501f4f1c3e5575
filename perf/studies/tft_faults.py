"""Rebuilds the attention of study 000 as its repository computed it: each of its faults by itself, and all of them.

The study compared it, in bfloat16, with a right one in float32. It stands here to be measured under its own name.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import nn

import attention
import models
from models.registry import Preset
from models.tft import TemporalFusionTransformer
from models.tft_layers import InterpretableMultiHeadAttention


@dataclass(frozen=True)
class Faults:
    """Switches the faults. `scaled_twice`: queries are divided by sqrt(D) before a kernel that divides by it again.
    `unpadded`: padded steps are attended to. `unbiased`: no bias of queries, keys and values. `all_queries`: every step
    asks (192), of which the horizon's answers (24) are kept."""

    scaled_twice: bool = False
    unpadded: bool = False
    unbiased: bool = False
    all_queries: bool = False

    def __str__(self) -> str:
        return ", ".join(f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name)) or "none"


NONE, ALL = Faults(), Faults(True, True, True, True)
SLOW = Faults(all_queries=True)


class FaultyAttention(InterpretableMultiHeadAttention):
    """Is the TFT's attention with faults; causal all the same, its queries aligned to the end of the keys."""

    def __init__(self, variant: str, heads: int, hidden_size: int, dropout: float, faults: Faults) -> None:
        super().__init__(variant, heads, hidden_size, dropout)
        self.faults = faults
        head_dim = hidden_size // heads
        if faults.scaled_twice:
            self.core = attention.create(variant, heads=heads, head_dim=head_dim, causal=True, scale=1 / head_dim)
        if faults.unbiased:
            for layer in [*self.q_layers, *self.k_layers, self.v_layer]:
                layer.register_parameter("bias", None)

    def forward(self, queries_BNF: torch.Tensor, keys_BMF: torch.Tensor,
                key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        mask = None if self.faults.unpadded else key_mask_BM
        queries = keys_BMF if self.faults.all_queries else queries_BNF
        return super().forward(queries, keys_BMF, mask)[:, -queries_BNF.shape[1]:]


def create(preset: Preset, variant: str, faults: Faults = NONE, *, seed: int = 0,
           device: torch.device | str = "cpu") -> nn.Module:
    """Builds the preset's TFT on a variant with these faults; all weights that are left are those of the right model.
    Whether the variant can run on the device is for the caller to ask.

    Raises ValueError for an unknown variant.
    """
    model = models.create(preset, seed=seed)  # on eager, which runs anywhere: a GPU's kernel refuses a CPU, and fp32
    assert isinstance(model, TemporalFusionTransformer)
    own = FaultyAttention(variant, preset.heads, preset.hidden, preset.sizes["dropout"], faults)
    own.load_state_dict({name: w for name, w in model.multihead_attn.state_dict().items() if name in own.state_dict()})
    model.multihead_attn = own
    return model.to(device).eval()
