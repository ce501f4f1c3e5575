"""Trained presets, kept in a folder: trained when first asked for, read from there afterwards.

The weights are those of a function of attention, not of a backend: every backend of `alibi` gets the same ones,
so a difference between backends is theirs alone. A kept file is named by preset, function, seed and a hash of
what determines the weights: the preset's numbers, the recipe, the data, and the source of all that takes part.
Change one, and it is trained anew.
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
    """A preset with trained weights on variant `attention`, in eval mode; `build` has `dtype` and `device`.

    Training runs on the CPU in float32. Killed, it goes on where its last checkpoint stood.
    Raises ValueError as `training.train` does, and for a kept file that is damaged.
    """
    preset = models.get(preset)
    model = models.create(preset, attention=attention, attention_options=attention_options, **build)
    file = path(preset, attention=attention, seed=seed, folder=folder, attention_options=attention_options)
    if not file.exists():
        done = training.train(preset, attention=_trainer(attention), attention_options=attention_options, seed=seed,
                              checkpoint=file.with_suffix(".part"), progress=progress)
        checkpoints.write(file, {"what": file.stem, "weights": done.state_dict()})
        file.with_suffix(".part").unlink(missing_ok=True)  # another process may have trained it too
    model.load_state_dict(checkpoints.read(file, KEYS)["weights"])
    return model


def path(preset: str | Preset, *, attention: str = "softmax:sdpa", seed: int = 0, folder: str | Path = FOLDER,
         attention_options: Mapping[str, Any] | None = None) -> Path:
    """Where `trained` keeps these weights."""
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
    """The variant that trains the function: fused where PyTorch has it, else its formula."""
    function = attention.partition(":")[0]
    return next(name for name in (f"{function}:sdpa", f"{function}:eager") if name in registry.names())
