"""Makes the classes that asv measures, from the series of the matrix.

A process for each figure of each cell, as asv starts them, would import torch for each. So `setup_cache` measures all
selected cells in one process, as pytest does, and writes what it found into asv's folder of the cache, in which the
processes of the figures start: they look theirs up, without torch.
"""
from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from perf.history.figures import Figures, of
from perf.history.matrix import FILE, current
from perf.history.series import FIGURES, VERSION, Series

FOUND = Path("figures.json")  # by workload id: "figures", or the "outcome" and "reason" of there being none


class Benchmark:
    """Is one series to asv: a cell is null unless it is selected and was measured.

    asv makes an object a process, calls `setup` with the cell's parameters, then one of the figures.
    `timer`, `repeat` and `min_run_count` are read after `setup`, and for `time_call` only, whose samples they play.
    """

    series: ClassVar[Series]
    selected: ClassVar[frozenset[int]]
    params: ClassVar[list[list[Any]]]
    param_names: ClassVar[list[str]]
    version = VERSION
    timeout = 900.0
    rounds = number = 1
    warmup_time = 0.0

    def __init__(self) -> None:
        self.figures: Figures | None = None

    def setup_cache(self) -> None:
        """Measures the selected cells of all series: asv calls it once, for it is the same function in all classes.
        Raises RuntimeError where nothing could be measured."""
        from perf.compare.side import Side
        from perf.history.process import Run, measuring
        from perf.measure.evidence import load

        # The folder of the matrix keeps the machine's ceilings from commit to commit; that of the cache is a commit's.
        folder = Path(os.environ[FILE]).parent if FILE in os.environ else Path.cwd()
        side, evidence = Side(Path(__file__).parents[2], "the commit"), folder / "evidence.jsonl"
        evidence.unlink(missing_ok=True)
        if reason := measuring(Run(current().workloads(), current().device, ahead=True))(side, evidence):
            raise RuntimeError(reason)
        found = {row.workload.id: {"figures": asdict(of(row))} if row.outcome in ("ok", "wrong") else
                 {"outcome": row.outcome, "reason": row.reason} for row in load(evidence)}
        FOUND.write_text(json.dumps(found), encoding="utf-8")

    setup_cache.timeout = 4 * 60 * 60.0  # type: ignore[attr-defined]

    def setup(self, *values: Any) -> None:
        """Looks the cell up; called again before every further sample."""
        if self.figures is not None:
            return
        workload = self.series.workload(values)
        if self.series.index(workload) not in self.selected:
            raise NotImplementedError(f"{workload.id} is not in the {current().grid} grid on {current().device}")
        found = json.loads(FOUND.read_text(encoding="utf-8"))[workload.id]
        if "figures" not in found:
            raise (RuntimeError if found["outcome"] == "failed" else NotImplementedError)(found["reason"])
        self.figures = Figures(**found["figures"])

    def time_call(self, *values: Any) -> None:
        """Stands for the call, whose samples the timer plays. Raises RuntimeError for a wrong variant."""
        assert self.figures is not None
        if self.figures.wrong:
            raise RuntimeError(self.figures.wrong)

    @property
    def timer(self) -> Callable[[], float]:
        """Gives asv a timer that reads nought, and then a sample."""
        if not (self.figures and self.figures.samples):
            return time.perf_counter
        readings = itertools.chain.from_iterable((0.0, seconds) for seconds in self.figures.samples)
        return lambda: next(readings)

    @property
    def repeat(self) -> int:
        """Gives asv the number of samples."""
        return len(self.figures.samples) or 1 if self.figures else 1

    min_run_count = repeat


def _track(figure: str) -> Callable[..., float]:
    def track(self: Benchmark, *values: Any) -> float:
        """Returns the figure, NaN where the cell has none. An error above 1 is a wrong variant's, which has no other
        figure."""
        assert self.figures is not None
        return self.figures.tracked(figure.removeprefix("track_"))

    track.__name__ = figure
    track.unit = FIGURES[figure]  # type: ignore[attr-defined]
    return track


for _figure in FIGURES:
    if _figure.startswith("track_"):
        setattr(Benchmark, _figure, _track(_figure))
for _name in (*FIGURES, "setup", "setup_cache"):  # what asv shows of them; else it reads their source, 1,500 times
    getattr(Benchmark, _name).pretty_source = getattr(Benchmark, _name).__doc__


def classes(module: str) -> dict[str, type[Benchmark]]:
    """Returns the classes of one module of the suite, by name."""
    return {series.name: _class(series, current().selected[series.benchmark])
            for series in current().series if series.module == module}


def descriptions(all_series: Iterable[Series]) -> dict[str, dict[str, Any]]:
    """Describes the figures of some series as asv's discovery does, by asv's name: the entries of its
    benchmarks.json."""
    from asv_runner.benchmarks.time import TimeBenchmark
    from asv_runner.benchmarks.track import TrackBenchmark

    described = {}
    for series in all_series:
        instance = _class(series, ())()
        for figure in FIGURES:
            kind, name = TimeBenchmark if figure.startswith("time_") else TrackBenchmark, f"{series.benchmark}.{figure}"
            attributes = vars(kind(name, getattr(instance, figure), [getattr(instance, figure), instance]))
            described[name] = {key: value for key, value in attributes.items()
                               if isinstance(value, str | int | float | list | dict) and not key.startswith("_")}
    return described


def _class(series: Series, selected: Iterable[int]) -> type[Benchmark]:
    body = {
        "__module__": f"asv_suite.{series.module}",
        "series": series,
        "selected": frozenset(selected),
        "params": list(series.axes.values()),
        "param_names": list(series.axes),
    }
    return type(series.name, (Benchmark,), body)
