"""Registers the presets of this package. To add a size of a family, add a line at the end.

GPT-2: Radford et al. 2019 (12 layers, 124 M), and DistilGPT-2, its 6-layer student (Sanh et al.,
arXiv 1910.01108). ViT: Dosovitskiy et al., arXiv 2010.11929, with 102 classes (Flowers-102) for L/16.
TFT: Lim et al., arXiv 1912.09363, of width 160 for hourly electricity: 369 series, 168 hours to forecast 24.
Each family has a tiny preset for tests. A ViT named -fused is the same model in fewer, larger products.
"""
from __future__ import annotations

from typing import Any

from models.registry import Preset, register


def _gpt2(name: str, *, heads: int, head_dim: int, layers: int, **sizes: Any) -> None:
    register(Preset("gpt2", name, heads, heads, head_dim, layers, True, ("prefill", "decode", "train-step"),
                    {"vocabulary": 50257, "positions": 1024, "position_embedding": "auto", "dropout": 0.1,
                     "initializer_range": 0.02, **sizes}), module="models.gpt2")


def _vit(name: str, *, heads: int, head_dim: int, layers: int, **sizes: Any) -> None:
    register(Preset("vit", name, heads, heads, head_dim, layers, False, ("forward", "train-step"),
                    {"image": 224, "patch": 16, "classes": 1000, "dropout": 0.0, "initializer_range": 0.02,
                     **sizes}), module="models.vit")


def _tft(name: str, *, heads: int, head_dim: int, **sizes: Any) -> None:
    register(Preset("tft", name, heads, heads, head_dim, 1, True, ("forward", "train-step"),
                    {"context": 168, "horizon": 24, "quantiles": (0.1, 0.5, 0.9), "variable": 32,
                     "static": (369,), "known": 4, "observed": 1, "dropout": 0.1, "own_step": True, **sizes}),
             module="models.tft")


_gpt2("gpt2-tiny", heads=4, head_dim=16, layers=2, vocabulary=101, positions=64)
_gpt2("gpt2-docstrings", heads=2, head_dim=64, layers=2, vocabulary=1024, positions=160)
_gpt2("distilgpt2", heads=12, head_dim=64, layers=6)
_gpt2("gpt2", heads=12, head_dim=64, layers=12)

_vit("vit-tiny", heads=4, head_dim=16, layers=2, image=32, patch=8, classes=10)
_vit("vit-tiny-fused", heads=4, head_dim=16, layers=2, image=32, patch=8, classes=10, fused=True)
_vit("vit-digits", heads=2, head_dim=64, layers=4, image=32, patch=8, classes=10)
_vit("vit-s16", heads=6, head_dim=64, layers=12)
_vit("vit-b16", heads=12, head_dim=64, layers=12)
_vit("vit-l16", heads=16, head_dim=64, layers=24, classes=102)
_vit("vit-l16-fused", heads=16, head_dim=64, layers=24, classes=102, fused=True)

_tft("tft-tiny", heads=4, head_dim=4, context=12, horizon=4, variable=8, static=(5, 3), known=3, observed=2)
_tft("tft-monthly", heads=2, head_dim=40, context=36, horizon=12, variable=16, static=(3,), known=3)
_tft("tft-160", heads=4, head_dim=40)
