"""A model of one attention layer: its preset, and the functions of a family module."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

import attention as kernels
from models import Preset, register

register(Preset("one-layer", "one-layer-3x40", heads=3, kv_heads=3, head_dim=40, layers=1, causal=True,
                phases=("forward",)), module=__name__)


class OneLayer(nn.Module):
    """Causal self-attention, (B, N, E) -> (B, N, E), E = heads x head_dim."""

    def __init__(self, preset: Preset, variant: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.heads, E = preset.heads, preset.hidden
        self.qkv, self.out = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.attend = kernels.create(variant, heads=preset.heads, head_dim=preset.head_dim, causal=True, **options)

    def forward(self, x_BNE: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x_BNE).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(-2))


def build(preset: Preset, *, attention: str, seed: int = 0, dtype: torch.dtype = torch.float32,
          device: str | torch.device = "cpu", attention_options: dict[str, Any] | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OneLayer(preset, attention, dict(attention_options or {}))
    return model.to(device=device, dtype=dtype).eval()


def inputs(preset: Preset, *, batch: int, n: int, device: str | torch.device = "cpu",
           dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {"x_BNE": torch.randn(batch, n, preset.hidden, generator=random).to(device, dtype)}


def loss(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).square().mean()
