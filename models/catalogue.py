"""Registers the presets of this package. To add a size of a family, add a line at the end.

GPT-2: Radford et al. 2019 (12 layers, 124 M), and DistilGPT-2, its 6-layer student (Sanh et al.,
arXiv 1910.01108). ViT: Dosovitskiy et al., arXiv 2010.11929, with 102 classes (Flowers-102) for L/16.
TFT: Lim et al., arXiv 1912.09363, of width 160 for hourly electricity: 369 series, 168 hours to forecast 24.
Other forecasters (`models.forecasting` names their papers): 36 months to forecast 12, and as long as TFT's hours.
The first three families have a tiny preset for tests. A ViT named -fused is the same model in fewer, larger products.
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


def _forecaster(name: str, *, head_dim: int, layers: int = 2, **sizes: Any) -> None:
    register(Preset("forecasting", name, 4, 4, head_dim, layers, False, ("forward", "train-step"),
                    {"backbone": name.rpartition("-")[0], "quantiles": (0.1, 0.5, 0.9), "static": (3,), "known": 3,
                     "observed": 1, "dropout": 0.0, **sizes}), module="models.forecasting")


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

for _rhythm, _sizes, _patches, _decoder, _average in (
        ("monthly", {"context": 36, "horizon": 12, "head_dim": 16}, {"patch": 6, "stride": 3}, {"start": 18}, 13),
        ("hourly", {"context": 168, "horizon": 24, "head_dim": 32}, {"patch": 16, "stride": 8}, {"start": 84}, 25)):
    _forecaster(f"patchtst-{_rhythm}", **_sizes, **_patches)
    _forecaster(f"patchtsmixer-{_rhythm}", **_sizes, **_patches, self_attn=True)
    _forecaster(f"informer-{_rhythm}", **_sizes, **_decoder)
    _forecaster(f"autoformer-{_rhythm}", **_sizes, **_decoder, layers=4, moving_average=_average)
    _forecaster(f"time-series-transformer-{_rhythm}", **_sizes, **_decoder)
    _forecaster(f"itransformer-{_rhythm}", **_sizes, mixer="attention")
