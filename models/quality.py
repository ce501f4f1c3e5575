"""How good a model is on held-out data: figures that a quantised model is compared by, item by item.

    base = evaluate(model, "vit-digits")
    change = compare(base["top1"], evaluate(quantised, "vit-digits")["top1"])
    print(change)              # top1 97.5 -> 97.2 points: -0.28 (-1.1 to +0.56, 360 items), inside the noise
    change.within(0.5)         # True, False, or None: these items can't tell
"""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from models import metrics
from models.figures import Change, Figure, compare, join
from models.registry import Preset, get

__all__ = ["Change", "Figure", "compare", "evaluate", "images", "join"]


def evaluate(model: nn.Module, preset: str | Preset, data: Any = None, *, batch: int = 64,
             limit: int | None = None) -> dict[str, Figure]:
    """Figures by name over `data`, or the preset's held-out part of its embedded data.

    ViT: top1, top5, f1. `limit` takes the first so many items. The model is left as it is.
    Raises ValueError for a family without figures.
    """
    preset = get(preset)
    if data is None:
        from models.data import split

        _, data = split(preset)
    families = {"vit": images}
    if preset.family not in families:
        raise ValueError(f"{preset.name}: no quality figures for the family {preset.family}; "
                         f"families with some: {', '.join(families)}")
    device, dtype = _place(model)
    items = torch.arange(min(limit or len(data), len(data)))
    was_training = model.training
    try:
        with torch.no_grad():
            return families[preset.family](model.eval(), data.to(device), items.split(batch), dtype)
    finally:
        model.train(was_training)


def images(model: nn.Module, data: Any, batches: tuple[torch.Tensor, ...], dtype: torch.dtype) -> dict[str, Figure]:
    """Of an image classifier."""
    logits, labels = [], []
    for items in batches:
        inputs, target = data.batch(items)
        logits.append(model(pixel_values=inputs["pixel_values"].to(dtype)).logits.float().cpu().numpy())
        labels.append(target.cpu().numpy())
    return classification(np.concatenate(logits), np.concatenate(labels))


def classification(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, Figure]:
    """Top-1, Top-5 and weighted F1, in points, of logits that came from anywhere: of all folds, say."""
    predictions = np.stack([labels_N, logits_NC.argmax(1)], axis=1)
    found = [Figure("top1", "points", "higher", metrics.hits(logits_NC, labels_N)),
             Figure("top5", "points", "higher", metrics.hits(logits_NC, labels_N, 5)),
             Figure("f1", "points", "higher", predictions, "weighted-f1")]
    return {figure.name: figure for figure in found}


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's inputs go; of a quantised one, the dtype of the weights that stayed."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    return weights[0].device, weights[0].dtype
