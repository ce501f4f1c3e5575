"""Trains presets at the first request and stores their weights in a folder for later ones.

Weights belong to a function of attention, not to a backend: every backend of `alibi` gets the same ones, so a
difference between two backends has no other cause. The name of a file holds preset, function, seed and a hash of
everything that determines the weights: the preset's numbers, the recipe, the data, and the source code that takes part.
If one of them changes, the preset is trained again.
"""
from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import models
from attention import registry
from models import checkpoints, losses, recipes, training
from models.registry import Preset

FOLDER = Path(".perf/trained")
KEYS = ("what", "weights")


def trained(preset: str | Preset, *, attention: str = "softmax:sdpa", seed: int = 0, folder: str | Path = FOLDER,
            attention_options: Mapping[str, Any] | None = None, progress: training.Progress | None = None,
            **build: Any) -> nn.Module:
    """Gives a preset with trained weights on variant `attention`, in eval mode. `build` may hold `dtype` and `device`.

    Training runs on the CPU in float32. After a kill it continues from its last checkpoint.
    Raises ValueError as `training.train` does, and for a stored file that is damaged.
    """
    preset = models.get(preset)
    model = models.create(preset, attention=attention, attention_options=attention_options, **build)
    file = path(preset, attention=attention, seed=seed, folder=folder, attention_options=attention_options)
    if not file.exists():
        twin = training.train(preset, attention=_trainer(attention), attention_options=attention_options, seed=seed,
                              checkpoint=file.with_suffix(".part"), progress=progress)
        checkpoints.write(file, {"what": file.stem, "weights": twin.state_dict()})
        file.with_suffix(".part").unlink(missing_ok=True)  # another process may have trained it too
    model.load_state_dict(checkpoints.read(file, KEYS)["weights"])
    return model


def path(preset: str | Preset, *, attention: str = "softmax:sdpa", seed: int = 0, folder: str | Path = FOLDER,
         attention_options: Mapping[str, Any] | None = None) -> Path:
    """Gives the path of the file in which `trained` stores these weights."""
    preset = models.get(preset)
    function = registry.function(attention.partition(":")[0])
    options = sorted(function.complete(dict(attention_options or {})).items())
    from models import data

    parts = (training, losses, data.module(preset), models.family(preset), sys.modules[function.oracle.__module__])
    sources = [inspect.getsource(module) for module in parts]
    what = training.fingerprint(preset, function.name, options, seed, recipes.recipe(preset),
                                data.module(preset).fingerprint(), sources)
    return Path(folder) / f"{preset.name}-{function.name}-{seed}-{what}.pt"


def _trainer(attention: str) -> str:
    """Chooses the variant that trains the function: PyTorch's fused attention if it can, else eager."""
    function = attention.partition(":")[0]
    return next(name for name in (f"{function}:sdpa", f"{function}:eager") if name in registry.names())
