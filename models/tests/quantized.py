"""Helpers for the tests of quantisation: every preset with every method that runs here, and its answers."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import models
from models import quantization
from models.tests.cases import DEVICES

PRESETS = ("gpt2-tiny", "vit-tiny", "tft-tiny")
# int4's default group of 128 inputs is wider than the tiny models.
SETTINGS: dict[str, dict[str, Any]] = {"ao-int4-weight": {"group": 32}}


def method(name: str, **settings: Any) -> quantization.Method:
    return quantization.get(name, **{**SETTINGS.get(name, {}), **settings})


def cases(*, presets: tuple[str, ...] = PRESETS, plain: bool = False) -> list[Any]:
    """Lists (preset, method, device) of all that can run here."""
    return [pytest.param(preset, name, device, id=f"{preset}-{name}-{device}")
            for device in DEVICES for preset in presets for name in quantization.methods()
            if (plain or method(name).kinds) and runs(preset, name, device)]


def runs(preset: str, name: str, device: str) -> bool:
    return quantization.why_not(method(name), device=device, preset=preset) is None


def create(preset: str, name: str, device: str = "cpu", **settings: Any) -> Any:
    return models.create(preset, quantization=method(name), device=device, **settings)


def plain(preset: str, name: str, device: str = "cpu", **settings: Any) -> Any:
    """Builds the unquantised model in the method's dtype."""
    return models.create(preset, dtype=method(name).dtype, device=device, **settings)


def answers(model: nn.Module, preset: str, seed: int = 0) -> torch.Tensor:
    """Gives the model's output for seeded inputs, as float32 on the CPU."""
    family = models.family(preset)
    weight = next(x for x in model.parameters() if x.dtype.is_floating_point)
    length = {"n": 9} if preset == "gpt2-tiny" else {}
    inputs = family.inputs(preset, batch=3, device=weight.device, dtype=weight.dtype, seed=seed, **length)
    with torch.no_grad():
        out = model(**inputs)
    return getattr(out, "logits", out).float().cpu()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Computes the relative distance in the Euclidean norm."""
    return ((a - b).norm() / b.norm()).item()
