"""Names the figures that asv keeps of a workload, whoever measured it: `of` evidence, or a `Cell` in a process of asv.

asv starts a process for each figure of each cell. The first one writes the figures into the folder named by
PERF_FIGURES, which is emptied for every run; the others read them, without importing torch.
"""
from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from perf.bench.subject import Subject
    from perf.measure.clocks import Clock, Plan
    from perf.measure.evidence import Evidence

FOLDER = "PERF_FIGURES"


@dataclass(frozen=True)
class Figures:
    """Holds a workload's figures besides its time, or the reason why it can't run here, or what is wrong with it.

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
    reason: str | None = None
    wrong: str | None = None

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
    error = _share(row.error, row.bound)
    if row.outcome == "wrong":
        return Figures(error, wrong=row.reason or "wrong")
    quality = row.quality.get("new", 0) / 100 if row.quality.get("unit") == "points" else None
    return Figures(error, row.peak_bytes, None if row.workload.bare else row.kept_bytes, row.counters.get("launches"),
                   row.host, row.compiled.get("cold"), row.compiled.get("warm"),
                   None if quality is None else 1 - quality)


class Cell:
    """Is a workload on a device."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device

    @functools.cached_property
    def figures(self) -> Figures:
        """Returns the figures that another process wrote, if one did; otherwise it measures them."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return self._measured()
        path = Path(folder) / f"{self.workload.id}.json"
        if not path.exists():
            path.write_text(json.dumps(asdict(self._measured())), encoding="utf-8")
        return Figures(**json.loads(path.read_text(encoding="utf-8")))

    @functools.cached_property
    def clock(self) -> Clock:
        """Returns the clock of the device."""
        import torch

        from perf.measure.clocks import clock

        return clock(torch.device(self.device))

    @functools.cached_property
    def plan(self) -> Plan:
        """Warms up, and says how often to call. Raises RuntimeError for a wrong variant, which gets no time."""
        if self.figures.wrong:
            raise RuntimeError(self.figures.wrong)
        return self._subject.plan(self.clock)

    @property
    def timed(self) -> bool:
        """Tells whether its time was asked for in this process."""
        return "plan" in vars(self)

    def prove(self) -> None:
        """Raises RuntimeError where the call that was timed does not compute its result."""
        from perf.bench.subject import Wrong

        try:
            self._subject.prove(self.plan)
        except Wrong as wrong:
            raise RuntimeError(str(wrong)) from wrong

    @functools.cached_property
    def _subject(self) -> Subject:
        import torch

        from perf.bench.prepare import Preparer
        from perf.bench.subject import Subject

        return Subject(Preparer(torch.device(self.device)), self.workload)

    def _measured(self) -> Figures:
        from perf.bench.subject import Missing, Wrong

        try:
            facts = self._subject.check()
            host = self._subject.plan(self.clock).host
        except Missing as missing:
            return Figures(reason=str(missing))
        except Wrong as wrong:
            return Figures(_share(wrong.facts.error, wrong.facts.bound), wrong=str(wrong))
        return Figures(_share(facts.error, facts.bound), facts.peak_bytes,
                       None if self.workload.bare else facts.kept_bytes, facts.counters.get("launches"), host,
                       facts.compiled.get("cold"), facts.compiled.get("warm"))


def _share(error: float | None, bound: float | None) -> float | None:
    """Divides an error by its bound."""
    return error / bound if error is not None and bound else None
