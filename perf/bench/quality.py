"""Quality says how good a model is and what quantising it costs: on trained presets, measured only where it is asked
for.

The models that are timed have random weights, of which no answer is better than another. So each family has a small
preset that is trained on data at hand (models/trained.py: once, then kept), treated the same way: attention, dtype and
quantization are those of the workload.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import attention
from perf.policy.budgets import budget, doubt, excess
from perf.system.tools import first_line
from perf.workloads.families import family
from perf.workloads.workload import UNQUANTISED, Workload


@dataclass(frozen=True)
class Quality:
    """Is what evidence keeps: its `figures`, empty where there is none and `reason` says why; `lost` says that it is
    more than the budget allows."""

    figures: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    lost: str | None = None


class Judge:
    """Measures each variant, dtype and method once; batch, length and phase change no answer."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder
        self._qualities: dict[tuple[str, ...], Quality] = {}
        self._plain: dict[tuple[str, ...], Any] = {}

    def of(self, w: Workload) -> Quality:
        """Judges a model's workload; raises nothing for what can't be had: that is a reason."""
        from models import get

        key = (get(w.model).family, w.variant, w.dtype, w.quantization)
        if key not in self._qualities:
            try:
                self._qualities[key] = self._measure(w)
            except (ValueError, ImportError) as error:
                self._qualities[key] = Quality(reason=first_line(error))
        return self._qualities[key]

    def _measure(self, w: Workload) -> Quality:
        from models import get, quality, quantization

        name, figure = family(w.model).trained, family(w.model).figure
        if name is None or figure is None:
            raise ValueError(f"no trained preset of the family {get(w.model).family}")
        get(name)  # raises
        model = self._trained_model(name, w)
        key = (name, w.variant, w.dtype)
        if key not in self._plain:
            self._plain[key] = quality.evaluate(model, name)[figure]
        base = self._plain[key]
        if w.quantization == UNQUANTISED:
            return Quality({"preset": name, "name": base.name, "unit": base.unit, "better": base.better,
                            "new": base.value, "items": len(base.items)})
        quantised = quantization.quantize(model, w.quantization, dtype=attention.DTYPES[w.dtype])
        change, allowed = quality.compare(base, quality.evaluate(quantised, name)[figure]), budget(w.quantization)
        figures = {"preset": name, **asdict(change), "budget": allowed.quality(change), "doubt": doubt(change, allowed)}
        return Quality(figures, lost=excess(change, allowed))

    def _trained_model(self, name: str, w: Workload) -> Any:
        from models.trained import trained

        return trained(name, attention=w.variant, folder=self.folder, dtype=attention.DTYPES[w.dtype],
                       device=self.device)
