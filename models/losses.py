"""What a training minimises, by family."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.registry import Preset


def loss(model: nn.Module, preset: Preset, inputs: dict[str, Any], target: torch.Tensor,
         label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of classes, in float32. Raises ValueError for another family."""
    if preset.family == "vit":
        return functional.cross_entropy(model(**inputs).logits.float(), target, label_smoothing=label_smoothing)
    raise ValueError(f"no loss is known for the family {preset.family}; families with one: vit")
