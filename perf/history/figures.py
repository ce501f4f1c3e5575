"""Names the figures that asv keeps of a workload, whoever measured it."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence


@dataclass(frozen=True)
class Figures:
    """Holds a workload's figures, or what is wrong with it.

    Each field but the last two is the asv figure "track_" and its name. None: the workload has no such figure, as a
    bare kernel has no model's bytes. A wrong variant has its error, relative to the bound, and nothing else.
    """

    error: float | None = None
    peak_bytes: int | None = None
    model_bytes: int | None = None
    launches: int | None = None
    host_time: float | None = None
    compile_cold: float | None = None
    compile_warm: float | None = None
    quality_loss: float | None = None
    wrong: str | None = None
    samples: tuple[float, ...] = ()  # seconds

    def tracked(self, name: str) -> float:
        """Returns a field's value, or NaN, asv's "n/a", if it has none. Raises RuntimeError for a wrong variant, but
        not for its error."""
        if self.wrong and name != "error":
            raise RuntimeError(self.wrong)
        value = getattr(self, name)
        return math.nan if value is None else value


def of(row: Evidence) -> Figures:
    """Reads the figures from evidence that is "ok" or "wrong". Raises ValueError for other evidence, which has none."""
    if row.outcome not in ("ok", "wrong"):
        raise ValueError(f"{row.workload.id}: {row.outcome} evidence has no figures")
    error = row.error / row.bound if row.error is not None and row.bound else None
    if row.outcome == "wrong":
        return Figures(error, wrong=row.reason or "wrong")
    loss = 1 - row.quality.get("new", 0) / 100 if row.quality.get("unit") == "points" else None
    return Figures(error, row.peak_bytes, None if row.workload.bare else row.kept_bytes, row.counters.get("launches"),
                   row.host, row.compiled.get("cold"), row.compiled.get("warm"), loss, samples=row.samples)
