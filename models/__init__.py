"""Transformer models on the attention registry: GPT-2, ViT, Temporal Fusion Transformer.

    models.create("distilgpt2", attention="alibi:flex", dtype=torch.bfloat16, device="cuda")
"""
from __future__ import annotations

from models import catalogue, quantization
from models.registry import Preset, create, family, get, presets, register

__all__ = ["Preset", "catalogue", "create", "family", "get", "presets", "quantization", "register"]
