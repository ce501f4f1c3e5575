"""One workload in one process of asv: checked once a commit, timed in every process that times it.

asv starts a process for each figure of each cell. The first to come writes what it found into the
folder named by PERF_FIGURES, emptied for every run; the others read it, without importing torch.
"""
from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.cells import Workload

if TYPE_CHECKING:
    from perf.measure.clocks import Clock, Plan

FOLDER = "PERF_FIGURES"


@dataclass(frozen=True)
class Figures:
    """Error over its bound and peak bytes of a call; or why it can't run here, or what is wrong with it."""

    error: float | None = None
    peak_bytes: int | None = None
    reason: str | None = None
    wrong: str | None = None


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

        from perf.prepare import Preparer

        return Preparer(torch.device(self.device))

    @functools.cached_property
    def _prepared(self) -> Any:
        return self._preparer.prepare(self.workload)

    def _measured(self) -> Figures:
        import torch

        import attention
        from perf.measure.memory import peak_bytes, shortage

        try:
            if reason := self._preparer.why_not(self.workload):
                return Figures(reason=reason)
            prepared = self._prepared
        except (ValueError, ImportError) as error:
            return Figures(reason=str(error).splitlines()[0])
        try:
            report = prepared.check()
            if not report.ok:
                return Figures(error=report.worst, wrong=report.message)
            return Figures(report.worst, peak_bytes(prepared.call, torch.device(self.device)) + prepared.kept())
        except attention.Unsupported as error:
            return Figures(reason=str(error))
        except torch.OutOfMemoryError as error:
            return Figures(reason=f"does not fit: {shortage(error)}")
