"""The figures of a workload that asv keeps, whoever measured it: `of` evidence, or a `Cell` in a process of asv.

asv starts a process for each figure of each cell. The first to come writes what it found into the
folder named by PERF_FIGURES, emptied for every run; the others read it, without importing torch.
"""
from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from perf.measure.clocks import Clock, Plan
    from perf.measure.evidence import Evidence

FOLDER = "PERF_FIGURES"


@dataclass(frozen=True)
class Figures:
    """What is tracked of a workload besides its time; or why it can't run here, or what is wrong with it.

    Each field but the last two is the asv figure "track_" and its name. None: it has none such, as a bare kernel has
    no model's bytes. A wrong variant has its error, over its bound and so above 1, and nothing else.
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
        """A field's value; NaN, asv's "n/a", if it has none. RuntimeError for a wrong variant, but for its error."""
        if self.wrong and name != "error":
            raise RuntimeError(self.wrong)
        value = getattr(self, name)
        return math.nan if value is None else value


def of(row: Evidence) -> Figures:
    """The figures in evidence that is "ok" or "wrong"; ValueError for other evidence, which has none."""
    if row.outcome not in ("ok", "wrong"):
        raise ValueError(f"{row.workload.id}: {row.outcome} evidence has no figures")
    error = row.error / row.bound if row.error is not None and row.bound else None
    if row.outcome == "wrong":
        return Figures(error, wrong=row.reason or "wrong")
    quality = row.quality.get("new", 0) / 100 if row.quality.get("unit") == "points" else None
    return Figures(error, row.peak_bytes, None if row.workload.bare else row.kept_bytes, row.counters.get("launches"),
                   row.host, row.compiled.get("cold"), row.compiled.get("warm"),
                   None if quality is None else 1 - quality)


class Cell:
    """A workload on a device."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device

    @functools.cached_property
    def figures(self) -> Figures:
        """Read if another process found them, else measured."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return self._measured()
        path = Path(folder) / f"{self.workload.id}.json"
        if not path.exists():
            path.write_text(json.dumps(asdict(self._measured())), encoding="utf-8")
        return Figures(**json.loads(path.read_text(encoding="utf-8")))

    @functools.cached_property
    def clock(self) -> Clock:
        import torch

        from perf.measure.clocks import clock

        return clock(torch.device(self.device))

    @functools.cached_property
    def call(self) -> Callable[[], Any]:
        """What is timed; raises RuntimeError for a numerically wrong variant, which gets no time."""
        if self.figures.wrong:
            raise RuntimeError(self.figures.wrong)
        return self._prepared.call

    @functools.cached_property
    def plan(self) -> Plan:
        """Warms up, and says how often to call."""
        return self.clock.prepare(self.call)

    @functools.cached_property
    def _preparer(self) -> Any:
        import torch

        from perf.bench.prepare import Preparer

        return Preparer(torch.device(self.device))

    @functools.cached_property
    def _prepared(self) -> Any:
        return self._preparer.prepare(self.workload)

    def _measured(self) -> Figures:
        import torch

        import attention
        from perf.measure.compiling import compiling
        from perf.measure.memory import shortage

        try:
            if reason := self._preparer.why_not(self.workload):
                return Figures(reason=reason)
            with compiling() as compiled:
                try:
                    prepared = self._prepared
                except (ValueError, ImportError) as error:
                    return Figures(reason=str(error).splitlines()[0])
                prepared.call()
            report = prepared.check()
            if not report.ok:
                return Figures(error=report.worst, wrong=report.message)
            return self._counted(report.worst, compiled.figures())
        except attention.Unsupported as error:
            return Figures(reason=str(error))
        except torch.OutOfMemoryError as error:
            return Figures(reason=f"does not fit: {shortage(error)}")

    def _counted(self, error: float, compiled: dict[str, float]) -> Figures:
        import torch

        from perf.measure.counters import count
        from perf.measure.memory import peak_bytes

        device, prepared = torch.device(self.device), self._prepared
        kept = prepared.kept()
        return Figures(error, peak_bytes(prepared.call, device) + kept, None if self.workload.bare else kept,
                       count(prepared.call, device).counters.get("launches"),
                       self.clock.prepare(prepared.call).host, compiled.get("cold"), compiled.get("warm"))
