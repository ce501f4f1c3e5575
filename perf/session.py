"""One pytest run's measuring: what happens to a workload between its fixture and its evidence."""
from __future__ import annotations

import time
from typing import Any, NoReturn

import pytest
import torch

import attention
from perf.cells import Workload
from perf.measure import machine, memory
from perf.measure.clocks import clock
from perf.measure.evidence import Evidence, Writer
from perf.measure.foreign import Foreign
from perf.options import Settings
from perf.prepare import Prepared, Preparer


class Session:
    """The clock, the prepared shape and the evidence of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = clock(settings.device)
        self.preparer = Preparer(settings.device)
        self.writer = Writer(settings.evidence)
        self.rows: list[Evidence] = []
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def measure(self, w: Workload, benchmark: Any) -> None:
        """Skips what can't run, fails what is wrong, times the rest through pytest-benchmark."""
        if reason := self.preparer.why_not(w):
            self._skip(w, reason)
        try:
            prepared = self._prepared(w)
            self._time(w, prepared, benchmark, self._check(w, prepared))
        except attention.Unsupported as error:
            self._skip(w, str(error))
        except torch.OutOfMemoryError as error:
            self._skip(w, f"{w.variant}: does not fit: {str(error).splitlines()[0]}")
        except Exception as error:
            self._record(w, "failed", reason=f"{type(error).__name__}: {error}".splitlines()[0])
            raise

    def _prepared(self, w: Workload) -> Prepared:
        try:
            return self.preparer.prepare(w)
        except (ValueError, ImportError) as error:
            self._skip(w, str(error).splitlines()[0])

    def _check(self, w: Workload, prepared: Prepared) -> dict[str, float]:
        """Error and bound of the tensor that comes closest to its bound; fails if one passes it."""
        report = prepared.check()
        worst = max(report.errors, key=lambda x: _badness(report.errors[x], report.bounds[x]))
        found = {"error": report.errors[worst], "bound": report.bounds[worst]}
        if not report.ok:
            self._record(w, "wrong", reason=report.message, **found)
            pytest.fail(report.message, pytrace=False)
        return found

    def _time(self, w: Workload, prepared: Prepared, benchmark: Any, found: dict[str, float]) -> None:
        peak = memory.peak_bytes(prepared.call, self.settings.device) + prepared.kept()
        plan = self.clock.prepare(prepared.call)
        benchmark.extra_info.update(found, peak_bytes=peak, flops=w.flops, bytes=w.bytes, clock=self.clock.name)
        company = Foreign()
        benchmark.pedantic(prepared.call, setup=plan.setup, rounds=plan.rounds, iterations=plan.iterations)
        if benchmark.stats is None:
            return  # --benchmark-disable: checked and called, not timed
        stats = benchmark.stats.stats
        self._record(w, "ok", samples=tuple(stats.data), median=stats.median, iqr=stats.iqr, rounds=plan.rounds,
                     iterations=plan.iterations, clock=self.clock.name, peak_bytes=peak,
                     foreign_cores=company.cores, **found)

    def _skip(self, w: Workload, reason: str) -> NoReturn:
        self._record(w, "skipped", reason=reason)
        pytest.skip(reason)

    def _record(self, w: Workload, outcome: str, **found: Any) -> None:
        evidence = Evidence(w, outcome, flops=w.flops, bytes=w.bytes, machine=machine.identity(),
                            revision=machine.revision(), **found)
        self.rows.append(evidence)
        self.writer.append(evidence)


def _badness(error: float, bound: float) -> float:
    """Error over bound, made to be ordered: NaN, and any error where none is allowed, are the worst."""
    if error != error or (error and not bound):
        return float("inf")
    return error / bound if bound else 0.0
