"""Limits what a quantisation method may cost: error of a layer and of the logits, and quality. The joint gate.

`budgets.toml` has the limits of each method, with what was measured and the reason. `perf.bench.treatments` defines the
errors; `excess` is the gate of quality: a quantised model that lost more than its budget fails, whatever its speed.
"""
from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.figures import Change

FILE = Path(__file__).with_name("budgets.toml")


@dataclass(frozen=True)
class Budget:
    """Holds the limits of one method. `layer` and `logits` are relative errors: 0.01 is 1 %. An accuracy may lose
    `points`, any other figure of quality the part `relative` of the unquantised model's."""

    layer: float
    logits: float
    points: float
    relative: float
    reason: str

    def quality(self, change: Change) -> float:
        """Returns how much of this figure may be lost, in its unit."""
        return self.points if change.unit == "points" else self.relative * abs(change.base)


@functools.cache
def budgets() -> dict[str, Budget]:
    """Reads the budget of every method, by name. Raises ValueError, in one line, for a file that makes no sense."""
    return parse(tomllib.loads(FILE.read_text(encoding="utf-8")))


def parse(table: dict[str, Any]) -> dict[str, Budget]:
    """Makes the budgets of the file's tables. Raises as `budgets`."""
    names = [field.name for field in fields(Budget)]
    for method, settings in table.items():
        if not isinstance(settings, dict) or sorted(settings) != sorted(names):
            raise ValueError(f"{FILE.name}: [{method}] must set {', '.join(names)}, and nothing else")
        for name in names[:-1]:
            value = settings[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{FILE.name}: [{method}] {name} = {value!r}: must be a number above 0")
        if not str(settings["reason"]).strip():
            raise ValueError(f"{FILE.name}: [{method}] gives no reason")
    return {method: Budget(**settings) for method, settings in table.items()}


def budget(method: str) -> Budget:
    """Returns the budget of a method. Raises ValueError for one that has none: it can't be measured before it has."""
    if method not in budgets():
        raise ValueError(f"{method} has no budget of error and quality; state one in perf/policy/{FILE.name}")
    return budgets()[method]


def excess(change: Change, limits: Budget) -> str | None:
    """Says in one line that more quality is lost than the `limits` allow; None where it is not.

    The estimate must be beyond the budget and some loss be certain: a figure that is worse by chance alone, on few
    items, fails nothing (`doubt` says so).
    """
    most = limits.quality(change)
    if not math.isfinite(change.difference):
        return f"{change.name} is {change.new}: no figure"
    loss = -change.difference if change.better == "higher" else change.difference
    if change.verdict == "worse" and loss > most:
        return f"loses more quality than its budget of {most:.3g}: {change}"
    return None


def doubt(change: Change, limits: Budget) -> str | None:
    """Says in one line that these items can't exclude a loss beyond the budget; None where they can, or `excess` fails
    it."""
    most = limits.quality(change)
    if excess(change, limits) or change.lost[1] <= most:
        return None
    return f"{change.items} items can't exclude a loss of {change.lost[1]:.3g} {change.unit}; the budget is {most:.3g}"
