"""Reads the history, what asv's results folder holds, as tidy rows, whoever measured it.

    history = load(Path(".asv/results"))
    for row in history.rows: ...           # a number each: machine, environment, commit, workload, figure, value
    for problem in history.problems: ...   # a file each that could not be used, or not all of it, and why

It needs no torch. perf/history/results.py puts evidence there.
"""
from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.results import Results

from perf.history.merge import NOT_RESULTS, UNREADABLE, cells
from perf.history.results import COMMIT, DIRTY
from perf.history.series import FIGURES, VERSION, Series
from perf.system import files
from perf.system.tools import first_line, group_by
from perf.workloads.workload import Workload, from_record

AXES = tuple(one.name for one in fields(Workload) if one.default is MISSING)  # of a series that needs no others
_parameter = functools.cache(ast.literal_eval)  # of what asv writes of a cell's parameter


@dataclass(frozen=True)
class Entry:
    """Is one number of the history."""

    machine: str
    environment: str
    commit: str
    date: float  # of the commit, seconds since 1970
    measured: float | None  # seconds since 1970: when the benchmark was last measured at this commit, some cell of it
    workload: Workload
    figure: str  # of perf.history.series.FIGURES
    value: float
    samples: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None  # of the median of a time, by asv, 99 %
    dirty: bool = False  # measured with uncommitted changes

    @property
    def unit(self) -> str:
        """Names the unit of the value."""
        return FIGURES[self.figure]


@dataclass(frozen=True)
class Problem:
    """Is a file that could not be used, or not all of it, with the reason in one line."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


Line = tuple[str, str, Workload, str]  # machine, environment, workload, figure


@dataclass(frozen=True)
class History:
    """Holds the rows in the order of their commits' dates."""

    rows: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @functools.cached_property
    def lines(self) -> dict[Line, list[Entry]]:
        """Groups the rows by the lines of asv's graphs, in order: only those of one line may be compared over
        commits."""
        return group_by((row for row in self.rows if not row.dirty),
                        lambda row: (row.machine, row.environment, row.workload, row.figure))


def load(folder: Path) -> History:
    """Reads all that can be read of asv's results in `folder`; what can't be is a problem, never an exception."""
    if not folder.is_dir():
        return History((), (Problem(folder, "there is no such folder"),))
    problems: dict[Problem, None] = {}  # in order, each once
    names = _names_of_axes(folder, problems)
    rows: list[Entry] = []
    for path in sorted(folder.rglob("*.json")):
        inside = path.relative_to(folder).parts
        if path.name in NOT_RESULTS or any(part.startswith(".") for part in inside):
            continue
        try:
            results = _results(path, inside)
            rows += _rows(path, results, names, problems)
        except UNREADABLE as error:
            problems[Problem(path, _line(error))] = None
    rows.sort(key=lambda row: (row.date, row.commit))
    return History(tuple(rows), tuple(problems))


def _names_of_axes(folder: Path, problems: dict[Problem, None]) -> dict[str, Sequence[str]]:
    path = Path(Benchmarks.get_benchmark_file_path(str(folder)))
    try:
        return {name: one["param_names"] for name, one in util.load_json(str(path), Benchmarks.api_version).items()}
    except UNREADABLE as error:
        problems[Problem(path, f"{_line(error)}; only series with the usual axes can be read")] = None
        return {}


def _results(path: Path, inside: Sequence[str]) -> Results:
    """Reads the file as asv does. Raises for what is no results file of the machine in whose folder it lies."""
    if len(inside) != 2:
        raise ValueError("lies in no machine's folder")
    results = Results.load(str(path), machine_name=inside[0])
    for name, value, kind in (("commit_hash", results.commit_hash, str), ("env_name", results.env_name, str),
                              ("date", results.date, int)):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}")
    if not COMMIT.fullmatch(results.commit_hash):
        raise ValueError(f"commit_hash is {results.commit_hash!r:.60}")
    if not 0 <= results.date / 1000 < files.YEAR_10000:
        raise ValueError(f"date is {results.date}")
    return results


def _rows(path: Path, results: Results, names: Mapping[str, Sequence[str]],
          problems: dict[Problem, None]) -> Iterator[Entry]:
    for benchmark in sorted(results.get_all_result_keys()):
        try:
            # A list: a benchmark that turns out broken half-way leaves no rows.
            yield from list(_of_benchmark(results, benchmark, names.get(benchmark)))
        except UNREADABLE as error:
            problems[Problem(path, f"{benchmark}: {_line(error)}")] = None


def _of_benchmark(results: Results, benchmark: str, axes: Sequence[str] | None) -> Iterator[Entry]:
    figure = benchmark.rpartition(".")[2]
    if figure not in FIGURES:
        raise ValueError("not a figure of this harness")
    if (version := results.benchmark_version.get(benchmark)) != VERSION:
        raise ValueError(f"version {version} of the figures; this harness tracks {VERSION}")
    params = results.get_result_params(benchmark)
    axes = axes or AXES
    if len(params) != len(axes):
        raise ValueError(f"{len(params)} axes, not {', '.join(axes)}")
    series, started = Series("", "", {axis: [] for axis in axes}), results.started_at.get(benchmark)
    for cell, (value, samples, record) in cells(results, benchmark).items():
        if value is not None:
            workload = from_record(asdict(series.workload(tuple(map(_parameter, cell)))))
            yield Entry(results.params["machine"], results.env_name, results.commit_hash, results.date / 1000,
                        None if started is None else _number(started) / 1000, workload, figure, _number(value),
                        tuple(map(_number, samples or ())), _interval(record) if record else None,
                        DIRTY.items() <= results.env_vars.items())


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _interval(record: Mapping[str, Any]) -> tuple[float, float]:
    """Reads the ends of an interval; of few samples they are infinite."""
    low, high = record["ci_99_a"], record["ci_99_b"]
    if not files.fits((low, high), tuple[float, ...]):
        raise ValueError(f"{low!r:.60} and {high!r:.60} are no interval")
    return low, high


def _line(error: BaseException) -> str:
    """Writes an error in one line, without the path that asv repeats."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return first_line(error)
