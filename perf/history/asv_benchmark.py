"""Makes the classes that asv measures, from the series of the matrix."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from perf.history.figures import Cell
from perf.history.matrix import current
from perf.history.series import FIGURES, VERSION, Series


class Benchmark:
    """Is one series to asv: a cell is null unless it is selected and runs here.

    asv makes an object a process, calls `setup` with the cell's parameters, then one of the figures.
    `timer`, `repeat`, `number` and `min_run_count` are read after `setup`, and for `time_call` only.
    """

    series: ClassVar[Series]
    selected: ClassVar[frozenset[int]]
    params: ClassVar[list[list[Any]]]
    param_names: ClassVar[list[str]]
    version = VERSION
    timeout = 900.0
    warmup_time = 1e-9  # one sample that does not count; the clock has warmed up already

    def __init__(self) -> None:
        self.cell: Cell | None = None
        self.ended = 0  # samples or calls

    def setup(self, *values: Any) -> None:
        """Checks the cell; called again before every further sample, empties the cache."""
        if self.cell is not None:
            if self.cell.plan.setup:
                self.cell.plan.setup()
            return
        workload = self.series.workload(values)
        if self.series.index(workload) not in self.selected:
            raise NotImplementedError(f"{workload.id} is not in the {current().grid} grid on {current().device}")
        cell = Cell(workload, current().device)
        if cell.figures.reason:
            raise NotImplementedError(cell.figures.reason)
        self.cell = cell

    def teardown(self, *values: Any) -> None:
        """Proves what was timed, after the first sample and the last; asv comes here after each, or after each call."""
        if self.cell is None or not self.cell.timed:
            return
        self.ended += 1
        samples = self.repeat + 1  # the first warms up
        if self.ended in (1, samples, samples * self.number):
            self.cell.prove()

    def time_call(self, *values: Any) -> None:
        """Makes the call that asv times."""
        assert self.cell is not None
        self.cell.plan.call()

    @property
    def timer(self) -> Callable[[], Any]:
        """Gives asv the clock of the cell."""
        return self.cell.clock.timer if self.cell else time.perf_counter

    @property
    def repeat(self) -> int:
        """Gives asv the rounds."""
        return self.cell.plan.rounds if self.cell else 1

    @property
    def number(self) -> int:
        """Gives asv the calls of a round."""
        return self.cell.plan.iterations if self.cell else 1

    @property
    def min_run_count(self) -> int:
        """Asks for all rounds: asv's own limit of time would cut a slow workload short."""
        return self.repeat * self.number


def _track(figure: str) -> Callable[..., float]:
    def track(self: Benchmark, *values: Any) -> float:
        """Returns the figure, NaN where the cell has none. An error above 1 is a wrong variant's, which has no other
        figure."""
        assert self.cell is not None
        return self.cell.figures.tracked(figure.removeprefix("track_"))

    track.__name__ = figure
    track.unit = FIGURES[figure]  # type: ignore[attr-defined]
    return track


for _figure in FIGURES:
    if _figure.startswith("track_"):
        setattr(Benchmark, _figure, _track(_figure))


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
