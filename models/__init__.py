"""Transformer models on the attention registry: GPT-2, ViT, Temporal Fusion Transformer.

    models.create("distilgpt2", attention="alibi:flex", dtype=torch.bfloat16, device="cuda")

To add a size of a family that is there, add a line to `catalogue.py`. To add a family, write `models/mine.py` with the
three functions that `models.registry` describes (`build`, `inputs`, `loss`), and register its first preset with
`module="models.mine"`. Then name the preset in a grid of `perf/` to have it measured.
"""
from __future__ import annotations

from models import catalogue, quantization
from models.creation import create
from models.registry import Preset, family, get, presets, register

__all__ = ["Preset", "catalogue", "create", "family", "get", "presets", "quantization", "register"]
