"""Takes the places of two classes of asv's while `asv run` works, and leaves out of what asv prints the cells at which
nothing was measured. Tried with asv 0.6.6; another asv is refused.

`SelectedBenchmarks` measures and shows the selected cells only: asv starts a process for each cell of a product of
axes, thousands, of which a run measures a few dozen, and has no setting against it. It does keep the numbers of the
cells to run, for `--bench`: these are narrowed here, in asv's own process. asv records what is left out as null, or
keeps what the commit had there before.

`MergedResults` loses nothing that another run wrote into the same file meanwhile: asv loads a commit's file, measures
for minutes, and writes it whole. Here the cells that this run changed are put into what the file holds by then, under
the lock that `perf.history.results` takes.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asv import benchmarks, results, util
from asv.commands import compare, run
from asv.console import log
from asv.results import Results
from filelock import FileLock

from perf.history.matrix import Matrix
from perf.history.merge import cells, copy, load, put
from perf.history.results import cut, save, widen


class SelectedBenchmarks(benchmarks.Benchmarks):
    """Is asv's benchmarks, less the cells that the environment's matrix doesn't select."""

    @classmethod
    def discover(cls, conf: Any, repo: Any, environments: list[Any], *args: Any, **kwargs: Any) -> Any:
        """Finds the benchmarks as asv does, and narrows them."""
        benchmarks_of_all = super().discover(conf, repo, environments, *args, **kwargs)
        for environment in environments:
            if matrix := getattr(environment, "matrix", None):
                environment.select(benchmarks_of_all.narrow(matrix))
        return benchmarks_of_all

    def narrow(self, matrix: Matrix) -> dict[str, list[int]]:
        """Keeps the selected cells of the matrix's series, and returns them; a benchmark of no series keeps all."""
        figures, cells = 0, {series: set[int]() for series in matrix.selected}
        for name, numbers in self.benchmark_selection.items():
            series = name.rpartition(".")[0]
            if series not in matrix.selected:
                continue
            left = sorted(set(numbers) & set(matrix.selected[series]))
            self.benchmark_selection[name] = left
            figures += len(left)
            cells[series] |= set(left)
            if not left:
                self.pop(name, None)
        log.info(f"{figures} figures selected: the {matrix.grid} grid on {matrix.device} (PERF_GRID, PERF_DEVICE)")
        return {series: sorted(numbers) for series, numbers in cells.items()}


def shorten(table: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Wraps asv's `table(result, benchmark)`: the values of the axes at which nothing was measured are left out."""

    def short(result: list[Any], benchmark: dict[str, Any], *args: Any, **kwargs: Any) -> list[str]:
        cells = list(itertools.product(*benchmark["params"]))
        known = [cell for cell, (value, _) in zip(cells, result, strict=True) if value == value]  # NaN: left out
        if not known:
            return ["nothing could be measured here"]
        params = cut(benchmark["params"], known)
        shown = set(itertools.product(*params))
        rows = [row for cell, row in zip(cells, result, strict=True) if cell in shown]
        return table(rows, {**benchmark, "params": params}, *args, **kwargs)

    return short


def measured(unroll: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wraps asv's `unroll_result(benchmark, params, values, ...)`, whose cells `asv compare` prints a line each: those
    at which nothing was measured are left out."""

    def short(*args: Any) -> Iterator[Any]:
        return (cell for cell in unroll(*args) if cell[1] == cell[1])  # NaN: left out

    return short


def install() -> None:
    """Takes asv's places. Raises asv.util.UserError, in one line, if this asv has none such."""
    if run.Benchmarks is SelectedBenchmarks:
        return
    table, unroll = getattr(results, "_format_benchmark_result", None), getattr(compare, "unroll_result", None)
    if (run.Benchmarks is not benchmarks.Benchmarks or table is None or unroll is None
            or not isinstance(getattr(benchmarks.Benchmarks, "benchmark_selection", None), property)):
        raise util.UserError("perf: this asv selects its benchmarks in another way; install asv 0.6.6")
    run.Benchmarks, run.Results = SelectedBenchmarks, MergedResults
    results._format_benchmark_result = shorten(table)
    compare.unroll_result = measured(unroll)


class MergedResults(Results):
    """Takes the place of asv's own while it runs."""

    loaded: dict[str, dict[tuple[str, ...], Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loaded = {}

    def load_data(self, result_dir: str) -> None:
        """Reads the file of a commit, and remembers what it held."""
        super().load_data(result_dir)
        self.loaded = {name: cells(self, name) for name in self.get_all_result_keys()}

    def save(self, result_dir: str) -> None:
        """Writes the file, with what other runs have put into it meanwhile."""
        folder = Path(result_dir)
        with FileLock(folder / ".lock"):
            if there := load(folder / self._filename):
                self._take(there)
            save(self, folder)

    def _take(self, there: Results) -> None:
        """Takes what the file has by now, where this run has changed nothing."""
        for name in there.get_all_result_keys():
            if name not in self._results:
                copy(there, self, name)
            elif there.benchmark_version.get(name) == self.benchmark_version.get(name):
                mine, before = cells(self, name), self.loaded.get(name, {})
                changed = {cell: content for cell, content in mine.items() if before.get(cell) != content}
                params = widen(there.get_result_params(name), self.get_result_params(name))
                put(self, name, params, {**mine, **cells(there, name), **changed})
