"""What a quantisation method may cost: error of a layer and of the logits, and quality. The joint gate.

`budgets.toml` says it for each method, with what was measured and the reason. `perf.bench.treatments` says what the
errors are; `lost` is the gate of quality: a quantised model that lost more than its budget fails, whatever its speed.
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
    """Of one method. `layer` and `logits` are relative errors: 0.01 is 1 %. `points` of an accuracy may be lost, of any
    other figure of quality `relative` of the unquantised model's."""

    layer: float
    logits: float
    points: float
    relative: float
    reason: str

    def quality(self, change: Change) -> float:
        """How much of this figure may be lost, in its unit."""
        return self.points if change.unit == "points" else self.relative * abs(change.base)


@functools.cache
def budgets() -> dict[str, Budget]:
    """Of every method, by name. Raises ValueError, in one line, for a file that makes no sense."""
    return parsed(tomllib.loads(FILE.read_text(encoding="utf-8")))


def parsed(table: dict[str, Any]) -> dict[str, Budget]:
    """The budgets of a parsed file. Raises as `budgets`."""
    known = [field.name for field in fields(Budget)]
    for method, settings in table.items():
        if not isinstance(settings, dict) or sorted(settings) != sorted(known):
            raise ValueError(f"{FILE.name}: [{method}] must set {', '.join(known)}, and nothing else")
        for name in known[:-1]:
            value = settings[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{FILE.name}: [{method}] {name} = {value!r}: must be a number above 0")
        if not str(settings["reason"]).strip():
            raise ValueError(f"{FILE.name}: [{method}] gives no reason")
    return {method: Budget(**settings) for method, settings in table.items()}


def budget(method: str) -> Budget:
    """Raises ValueError for a method that has none: it can't be measured before it has."""
    found = budgets().get(method)
    if found is None:
        raise ValueError(f"{method} has no budget of error and quality; state one in perf/policy/{FILE.name}")
    return found


def lost(change: Change, allowed: Budget) -> str | None:
    """In one line, that more quality is lost than `allowed`; None where it is not.

    The estimate must be beyond the budget and some loss be certain: a figure that is worse by chance alone, on few
    items, fails nothing (`doubt` tells it).
    """
    most = allowed.quality(change)
    if not math.isfinite(change.difference):
        return f"{change.name} is {change.new}: no figure"
    if change.verdict == "worse" and _loss(change) > most:
        return f"loses more quality than its budget of {most:.3g}: {change}"
    return None


def doubt(change: Change, allowed: Budget) -> str | None:
    """In one line, that these items can't exclude a loss beyond the budget; None where they can, or `lost` fails it."""
    most = allowed.quality(change)
    if lost(change, allowed) or change.lost[1] <= most:
        return None
    return f"{change.items} items can't exclude a loss of {change.lost[1]:.3g} {change.unit}; the budget is {most:.3g}"


def _loss(change: Change) -> float:
    return -change.difference if change.better == "higher" else change.difference
