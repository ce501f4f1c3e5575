"""Trains a TFT for some steps on the monthly series, gives its figures, and a training step and a forecast to time."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attention import DTYPES
from models.data import split
from models.losses import loss
from models.quality import Figure, evaluate
from models.recipes import recipe
from models.registry import Preset
from models.training import fit

TRAINING_LIMIT = 10.0  # times the limit of one measurement


def train(model: nn.Module, preset: Preset, steps: int, batch: int, dtype: str, limit: float) -> dict[str, float]:
    """Trains in place, by the preset's recipe; gives steps done and seconds. It does fewer steps where `limit` ends it
    first."""
    steps_so_far = [0]
    started = time.monotonic()
    how = replace(recipe(preset), steps=steps, batch=batch)
    fit(model, preset, split(preset)[0], how, dtype=DTYPES[dtype], seconds=TRAINING_LIMIT * limit,
        progress=lambda step, *_: steps_so_far.append(step))
    return {"steps": steps_so_far[-1], "seconds": time.monotonic() - started}


def figures(model: nn.Module, preset: Preset, dtype: str = "fp32") -> dict[str, Figure]:
    """Measures RMSE, MASE, sMAPE of the held-out windows."""
    with lower(model, dtype):
        return evaluate(model, preset, split(preset)[1])


def step(model: nn.Module, preset: Preset, batch: int, dtype: str) -> Callable[[], Any]:
    """Makes a call of forward, loss and backward on one batch; no optimizer, so that every call is the same one."""
    data = split(preset)[0].to(_device(model))
    inputs, target = data.batch(torch.arange(batch) % len(data))
    model.train()

    def call() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with lower(model, dtype):
            value = loss(model, preset, inputs, target)
        value.backward()
        return value

    return call


def forecast(model: nn.Module, preset: Preset, batch: int, dtype: str) -> Callable[[], Any]:
    """Makes a call that gives the quantiles of one batch of held-out windows."""
    data = split(preset)[1].to(_device(model))
    inputs, _ = data.batch(torch.arange(batch) % len(data))
    model.eval()

    def call() -> torch.Tensor:
        with torch.no_grad(), lower(model, dtype):
            return model(**inputs)

    return call


def lower(model: nn.Module, dtype: str) -> contextlib.AbstractContextManager:
    """Computes products in `dtype`, weights as they are: what training does."""
    return contextlib.nullcontext() if dtype == "fp32" else torch.autocast(_device(model).type, DTYPES[dtype])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
