"""The registry of model presets by name. They are plain data, so looking one up imports no model library.

A preset names its family, and the family's module builds it with three functions:
`build(preset, *, attention, ...)` -> nn.Module, `inputs(preset, *, batch, n, ...)` -> keyword arguments of its forward,
and `loss(model, inputs)` -> the scalar that a training step minimises.
"""
from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

import attention as attention_registry

ENTRY_POINTS = "attention_perf.models"
PHASES = ("forward", "prefill", "decode", "train-step")


@dataclass(frozen=True)
class Preset:
    """A preset is one size of a model family.

    `heads`, `kv_heads`, `head_dim`, `layers` and `causal` describe its attention, `phases` are the phases that can be
    timed, and `sizes` holds the family's other settings. `hidden` is heads * head_dim.
    """

    family: str
    name: str
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    causal: bool
    phases: tuple[str, ...]
    sizes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def hidden(self) -> int:
        """The width of the model."""
        return self.heads * self.head_dim

    def resized(self, **sizes: Any) -> Preset:
        """Copies this preset with other numbers. Another number of `heads` divides the same width.

        Raises ValueError for an unknown number, or heads that do not divide the width.
        """
        choices = ["heads", "layers", *self.sizes]
        for size in sizes:
            if size not in choices:
                raise ValueError(f"{self.name} has no size {size!r}; its sizes: {', '.join(choices)}")
        heads = sizes.pop("heads", self.heads)
        if heads < 1 or self.hidden % heads:
            raise ValueError(f"{self.name}: {heads} heads do not divide its width {self.hidden}")
        kv_heads = heads if self.kv_heads == self.heads else self.kv_heads
        return replace(self, heads=heads, kv_heads=kv_heads, head_dim=self.hidden // heads,
                       layers=sizes.pop("layers", self.layers), sizes={**self.sizes, **sizes})


_presets: dict[str, Preset] = {}
_modules: dict[str, str] = {}


def register(preset: Preset, *, module: str | None = None) -> Preset:
    """Adds a preset. `module`, needed once for each family, is the dotted name of the module that builds it.

    Another installed package calls this from a module that it names under the entry-point group
    `attention_perf.models`. Raises ValueError for a name that exists already, an unknown phase, or a family without a
    module.
    """
    if preset.name in _presets:
        raise ValueError(f"model preset {preset.name!r} is registered already")
    if unknown := set(preset.phases) - set(PHASES):
        raise ValueError(f"{preset.name}: unknown phase {unknown.pop()!r}; phases: {', '.join(PHASES)}")
    if module is not None and _modules.setdefault(preset.family, module) != module:
        raise ValueError(f"family {preset.family!r} is built by {_modules[preset.family]}, not by {module}")
    if preset.family not in _modules:
        raise ValueError(f"{preset.name}: say which module builds the family {preset.family!r}: module=")
    _presets[preset.name] = preset
    return preset


@functools.cache
def _load() -> None:
    """Imports the presets that other installed packages add, once."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def presets() -> dict[str, Preset]:
    """Gives every registered preset by its name, in the order of registration."""
    _load()
    return dict(_presets)


def get(name: str | Preset) -> Preset:
    """Looks a preset up by name; a preset itself is given back. Raises ValueError, which lists the choices."""
    if isinstance(name, Preset):
        return name
    choices = presets()
    if name not in choices:
        close = difflib.get_close_matches(name, choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown model preset {name!r}{hint} Choices: {', '.join(choices)}")
    return choices[name]


def family(preset: str | Preset) -> ModuleType:
    """Imports the module with `build`, `inputs` and `loss` of a preset. Raises ImportError for a missing package."""
    preset = get(preset)
    try:
        return importlib.import_module(_modules[preset.family])
    except ImportError as error:
        raise ImportError(f"{preset.name}: {error}; pip install 'attention-perf[models]'") from error


def require(preset: Preset, variant: str, *, n: int, m: int | None = None, dtype: torch.dtype,
            device: str | torch.device, **options: Any) -> None:
    """Raises ValueError, in one line, if the variant can't serve the preset at this length, dtype and device."""
    reason = attention_registry.why_not(variant, device=device, dtype=dtype, heads=preset.heads,
                                        kv_heads=preset.kv_heads, head_dim=preset.head_dim, n=n, m=m,
                                        causal=preset.causal, **options)
    if reason is not None:
        raise ValueError(f"{preset.name} can't run on {reason}")


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0, dtype: torch.dtype = torch.float32,
          device: str | torch.device = "cpu", attention_options: Mapping[str, Any] | None = None,
          **sizes: Any) -> nn.Module:
    """Builds a plain model with random weights from `seed`, in eval mode, with variant `attention`; `sizes` changes
    numbers of the preset (`layers=2`).

    Raises ValueError for an unknown preset or size, and, with the line of `attention.why_not`, for a variant that can't
    serve the preset.
    """
    preset = get(preset)
    return family(preset).build(preset.resized(**sizes), attention=attention, seed=seed, device=device,
                                attention_options=attention_options, dtype=dtype)
