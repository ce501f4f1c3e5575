"""Trains out-of-fold models: a model that was not trained on an item scores it, so all items count.

    base, new = [], []
    for model, held_out in out_of_fold("vit-l16", 2, device="cuda", dtype=torch.bfloat16, seconds=50):
        base.append(evaluate(model.bfloat16(), "vit-l16", held_out))
        new.append(evaluate(quantize(model, "ao-int8-dynamic"), "vit-l16", held_out))
    print(compare(join(base)["top1"], join(new)["top1"]))
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

import models
from models.data import digits
from models.registry import Preset
from models.training import train


class Fold(NamedTuple):
    """A fold is a trained model in eval mode, with weights in float32, and the items it was not trained on."""

    model: nn.Module
    held_out: digits.Images


def out_of_fold(preset: str | Preset, count: int, **settings: Any) -> Iterator[Fold]:
    """Yields a fold for each of `count` parts of all 1797 digits and trains its ViT just before.

    `settings` are those of `training.train`; `seconds` is the time for each fold. The caller may change a model, and
    should drop it before the next fold. Raises ValueError for a family that reads no images, and as `train` does.
    """
    preset = models.get(preset)
    if preset.family != "vit":
        raise ValueError(f"{preset.name}: only images are split into folds (a series has its past, texts are many)")
    images = replace(digits.load(), side=preset.sizes["image"])
    for train_items, held_out in digits.folds(images, count):
        yield Fold(train(preset, data=images.take(train_items), **settings),
                   images.take(torch.from_numpy(held_out)))
