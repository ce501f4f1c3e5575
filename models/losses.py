"""The losses that training minimises, by family."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models import gpt2, tft
from models.registry import Preset


def loss(model: nn.Module, preset: Preset, inputs: dict[str, Any], target: torch.Tensor,
         label_smoothing: float = 0.0) -> torch.Tensor:
    """Computes the cross-entropy of classes or next tokens, or the quantile loss, in float32.

    Raises ValueError for a family without a loss.
    """
    if preset.family not in LOSSES:
        raise ValueError(f"no loss is known for the family {preset.family}; families with one: {', '.join(LOSSES)}")
    return LOSSES[preset.family](model, inputs, target, label_smoothing)


def _classes(model: Any, inputs: dict[str, Any], labels_B: torch.Tensor, smoothing: float) -> torch.Tensor:
    return functional.cross_entropy(model(**inputs).logits.float(), labels_B, label_smoothing=smoothing)


def _tokens(model: Any, inputs: dict[str, Any], next_BN: torch.Tensor, smoothing: float) -> torch.Tensor:
    words = gpt2.logits(model, inputs["input_ids"]).flatten(0, 1)
    return gpt2.cross_entropy(words, next_BN.reshape(-1, 1), smoothing)


def _quantiles(model: Any, inputs: dict[str, Any], target_BN: torch.Tensor, smoothing: float) -> torch.Tensor:
    return tft.quantile_loss(model(**inputs).float(), target_BN, model.quantiles)


LOSSES = {"vit": _classes, "gpt2": _tokens, "tft": _quantiles, "forecasting": _quantiles}
