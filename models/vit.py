"""Builds the Vision Transformer (Dosovitskiy et al., arXiv 2010.11929): transformers' class with any attention variant.

An image of 224 pixels in patches of 16 is 196 tokens; with the class token n = 197.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification

from models import transformers_attention, vit_fused
from models.registry import Preset, get, require


def tokens(preset: str | Preset) -> int:
    """Counts the tokens of an image: its patches and the class token."""
    sizes = get(preset).sizes
    return (sizes["image"] // sizes["patch"]) ** 2 + 1


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
          attention_options: Mapping[str, Any] | None = None) -> ViTForImageClassification:
    """Builds a preset with random weights from `seed`, the same on every device, in eval mode.

    Raises ValueError for an unknown preset or variant, and a variant that can't serve it.
    """
    preset = get(preset)
    sizes, options = preset.sizes, dict(attention_options or {})
    require(preset, attention, n=tokens(preset), dtype=dtype, device=device, **options)
    config = ViTConfig(
        hidden_size=preset.hidden, num_hidden_layers=preset.layers, num_attention_heads=preset.heads,
        intermediate_size=4 * preset.hidden, image_size=sizes["image"], patch_size=sizes["patch"],
        hidden_dropout_prob=sizes["dropout"], attention_probs_dropout_prob=0.0,
        initializer_range=sizes["initializer_range"])
    config.num_labels = sizes["classes"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = ViTForImageClassification(config)
    if sizes.get("fused"):
        vit_fused.fuse(model)
    transformers_attention.attach(model, preset, attention, options)
    return model.to(device=device, dtype=dtype).eval()


def inputs(preset: str | Preset, *, batch: int, n: int | None = None, device: str | torch.device = "cpu",
           dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draws images (B, 3, side, side) by `seed`, standard normal.

    Raises ValueError if `n` is not the preset's number of tokens.
    """
    preset = get(preset)
    if n not in (None, tokens(preset)):
        raise ValueError(f"{preset.name} reads {tokens(preset)} tokens, not {n}: change its image or patch")
    side = preset.sizes["image"]
    random = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(batch, 3, side, side, generator=random).to(device, dtype)}


def loss(model: ViTForImageClassification, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes the mean cross-entropy; image i of the batch has class i modulo the number of classes."""
    pixels = inputs["pixel_values"]
    logits = model(pixel_values=pixels).logits
    labels = torch.arange(len(pixels), device=pixels.device) % logits.shape[-1]
    return torch.nn.functional.cross_entropy(logits.float(), labels)
