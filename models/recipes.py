"""Recipes of training as plain numbers, chosen on the embedded data so that a minute on two cores is enough."""
from __future__ import annotations

import math
from dataclasses import dataclass

from models.registry import Preset


@dataclass(frozen=True)
class Recipe:
    """A recipe is AdamW (Loshchilov and Hutter, arXiv 1711.05101) with a linear warm-up and a cosine decay to zero.

    There are `steps` of `batch` items each; `warmup` is a fraction of the steps. `clip` limits the norm of all
    gradients together.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    label_smoothing: float = 0.0
    augment: bool = False

    def rate(self, done: float) -> float:
        """Gives the learning rate after the fraction `done` (0 to 1) of the training."""
        if done < self.warmup:
            return self.learning_rate * max(done, 1e-3) / self.warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


RECIPES = {
    "vit-digits": Recipe(steps=600, batch=64, learning_rate=7e-4, label_smoothing=0.1, augment=True),
    "gpt2-docstrings": Recipe(steps=400, batch=16, learning_rate=3e-3),
    "tft-monthly": Recipe(steps=300, batch=64, learning_rate=2e-3),
}
RECIPES |= dict.fromkeys(("vit-l16", "vit-l16-fused"),  # two minutes of an H100 on half of the digits
                         Recipe(steps=1700, batch=64, learning_rate=2e-4, label_smoothing=0.1, augment=True))
# For the other presets of a family: a large ViT trains in a minute on one GPU, the smallest ones in a test.
FAMILIES = {
    "gpt2": Recipe(steps=400, batch=16, learning_rate=5e-4),
    "tft": Recipe(steps=1000, batch=64, learning_rate=1e-3),
    "forecasting": RECIPES["tft-monthly"],
    "vit": Recipe(steps=400, batch=128, learning_rate=1.5e-4, warmup=0.15, label_smoothing=0.1, augment=True),
}


def recipe(preset: Preset) -> Recipe:
    """Gives the recipe of the preset or of its family. Raises ValueError for a family without a recipe."""
    choice = RECIPES.get(preset.name) or FAMILIES.get(preset.family)
    if choice is None:
        raise ValueError(f"no recipe trains {preset.name} (family {preset.family}); "
                         f"families with one: {', '.join(FAMILIES)}")
    return choice
