"""Writes evidence into asv's results: one file a commit, machine and environment, as `asv run` does.

    written = write(rows, folder, machines={id: fingerprint})    # ValueError, in one line, where nothing can be kept

Only measured numbers get there. What was skipped, failed or invalid leaves its cells as they are: not available, or
what an earlier run of the commit found. A wrong variant has its error, above 1, and loses the commit's other figures.
Of a row that was kept though the machine was unfit, only what is counted goes in, no time.
"""
from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult
from filelock import FileLock

from perf.history import figures, place
from perf.history.asv_benchmark import descriptions
from perf.history.matrix import all_series
from perf.history.series import FIGURES, Series, common
from perf.system import git
from perf.system.files import beside
from perf.system.tools import first_line

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence

ROOT = Path(__file__).resolve().parents[2]
ASK = "ask for a series of its own (--perf-history-dirty; history add --dirty)"
DIRTY = {"TREE": "dirty"}  # an environment variable to asv: its series is none of the commit's
TIMES = ("host_time", "compile_cold", "compile_warm")
COMMIT = re.compile(r"[0-9a-f]{40,64}")
NAMES = tuple(figure.removeprefix("track_") for figure in FIGURES if figure.startswith("track_"))

Number = tuple[float | None, list[float] | None, int | None]  # value, or samples and calls in each


@dataclass
class Receipt:
    """Holds the result files that were written, how many numbers went in, and why rows did not."""

    files: list[Path] = field(default_factory=list)
    numbers: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Lists what there is to say, a line each."""
        rows = (f"{count} {'row' if count == 1 else 'rows'} {reason}" for reason, count in self.left_out.items())
        return [*rows, *self.broken]


@dataclass(frozen=True, order=True)
class Key:
    """Is what has a result file of its own."""

    machine: str  # the fingerprint's id
    commit: str
    dirty: bool
    device_type: str


def write(rows: Iterable[Evidence], folder: Path, *, machines: Mapping[str, Mapping[str, Any]], root: Path = ROOT,
          dirty: bool = False, append: bool = False) -> Receipt:
    """Writes rows into asv's results folder; `machines` are fingerprints by the id that evidence carries.

    A commit's date is asked of the repository at `root`. Rows of a working tree with uncommitted changes are left out,
    unless `dirty` asks for them: then they get an environment of their own. With `append` a time's samples are added to
    those that the commit has. Runs that write at the same time wait for one another. Raises ValueError, in one line,
    for a commit that the repository lacks.
    """
    rows, receipt = list(rows), Receipt()
    timed = next(filter(None, map(_device_type, rows)), None)
    groups: dict[Key, list[Evidence]] = {}
    for row in rows:
        if row.outcome not in ("ok", "wrong"):
            continue
        commit, _, changed = (row.revision or "").partition("+")
        if reason := _refused(row, commit, bool(changed), dirty, machines):
            receipt.left_out[reason] += 1
            continue
        device_type = _device_type(row) or timed or ("cuda" if machines[row.machine].get("gpus") else "cpu")
        groups.setdefault(Key(row.machine, commit, bool(changed), device_type), []).append(row)
    dates = {key.commit: _date(root, key.commit) for key in groups}
    if groups:
        index = all_series()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            measured = {common(row.workload) for of_key in groups.values() for row in of_key}
            listed = _benchmarks(folder, [index[shared] for shared in measured if shared in index])
            for key, of_key in sorted(groups.items()):
                _one_file(folder, key, of_key, machines[key.machine], dates[key.commit], index, listed, receipt, append)
    return receipt


def _refused(row: Evidence, commit: str, changed: bool, dirty: bool, machines: Mapping[str, Any]) -> str | None:
    if commit and not COMMIT.fullmatch(commit):
        return f"of {commit!r:.60}, which is no commit's hash: not in the history"
    if not commit:
        return "measured outside git, so of no commit: not in the history"
    if changed and not dirty:
        return f"measured with uncommitted changes, so not in the history; commit them, or {ASK}"
    return None if row.machine in machines else f"of machine {row.machine}, which nothing describes: not in the history"


def _device_type(row: Evidence) -> str | None:
    """Reads the device from the clock; None for a row that wasn't timed."""
    return row.clock and ("cuda" if row.clock.startswith("cuda") else "cpu")


def _date(root: Path, commit: str) -> int:
    """Returns the commit's date in milliseconds, as asv keeps it. A rebase gives many commits the same second: each
    is a millisecond after the one before, so that the history keeps their order."""
    try:
        seconds = git.text(root, "log", "--first-parent", "--max-count=1000", "--format=%ct", "--end-of-options",
                           f"{commit}^{{commit}}", "--").split()
        return 1000 * int(seconds[0]) + len(list(itertools.takewhile(lambda one: one == seconds[0], seconds[1:])))
    except ValueError:
        raise ValueError(f"the history needs the date of commit {commit[:8]}, which the repository at {root} lacks; "
                         "fetch it") from None


def _one_file(folder: Path, key: Key, rows: list[Evidence], fingerprint: Mapping[str, Any], date: int,
              index: Mapping[Any, Series], listed: Mapping[str, dict[str, Any]], receipt: Receipt,
              append: bool) -> None:
    machine = place.machine(fingerprint, key.device_type)
    versions, python = place.requirements(fingerprint, key.device_type), place.python(fingerprint)
    variables = DIRTY if key.dirty else {}
    results = Results({**machine, "python": python, **versions}, versions, key.commit, date, python,
                      place.environment(fingerprint, key.device_type, variables), dict(variables))
    path = folder / results._filename
    try:
        results.load_data(str(folder))
    except (util.UserError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        aside = path.with_suffix(".json.broken")
        path.replace(aside)
        receipt.broken.append(f"{path} could not be read ({first_line(error)}): it is {aside.name} now")
    for name, cells in _cells(rows, index, receipt).items():
        receipt.numbers += sum(value is not None or samples is not None for value, samples, _ in cells.values())
        measured = datetime.fromtimestamp(max(row.time for row in rows), UTC)
        _add(results, listed[name], cells, measured, append)
    if results.get_all_result_keys():
        save_json(folder / machine["machine"] / "machine.json", machine, Machine.api_version)
        save(results, folder)
        receipt.files.append(path)


def _cells(rows: Iterable[Evidence], index: Mapping[Any, Series],
           receipt: Receipt) -> dict[str, dict[tuple[str, ...], Number]]:
    """Maps benchmarks to their cells: parameters, as asv writes them, to a number."""
    by_benchmark: dict[str, dict[tuple[str, ...], Number]] = {}
    for row in rows:
        series = index.get(common(row.workload))
        if row.outcome == "ok" and row.reason:
            receipt.left_out["measured on an unfit machine: what was counted is in the history, no time"] += 1
        values = series.values(row.workload) if series else ()
        if series is None or any(value not in axis for value, axis in zip(values, series.axes.values(), strict=True)):
            receipt.left_out["of shapes that are on none of asv's axes, the full grid's: not in the history"] += 1
            continue
        for figure, number in _numbers(row):
            by_benchmark.setdefault(f"{series.benchmark}.{figure}", {})[tuple(map(repr, values))] = number
    return by_benchmark


def _numbers(row: Evidence) -> Iterator[tuple[str, Number]]:
    """Lists the figures of a row. A wrong one's are None, to withdraw what the commit had, but for its error."""
    tracked = figures.of(row)
    unfit = row.outcome == "ok" and row.reason is not None
    if tracked.wrong:
        yield "time_call", (None, None, None)
    elif row.samples and not unfit:
        yield "time_call", (None, [float(f"{seconds:.7g}") for seconds in row.samples], row.iterations)
    for name in NAMES:
        value = getattr(tracked, name)
        if tracked.wrong and name != "error":
            yield f"track_{name}", (None, None, None)
        elif value is not None and math.isfinite(value) and not (unfit and name in TIMES):
            yield f"track_{name}", (value, None, None)


def _add(results: Results, benchmark: Mapping[str, Any], cells: Mapping[tuple[str, ...], Number],
         measured: datetime, append: bool) -> None:
    """Replaces these cells of a benchmark, or appends to them, and leaves its others."""
    name, params = benchmark["name"], benchmark["params"]
    if name in results.get_all_result_keys():
        params = widen(results.get_result_params(name), params)
    elif not any(value is not None or samples is not None for value, samples, _ in cells.values()):
        return  # nothing to withdraw
    places = {values: number for number, values in enumerate(itertools.product(*params))}
    size = len(places)
    new = BenchmarkResult([math.nan] * size, [None] * size, [None] * size, 0, "", None)
    for values, (value, samples, number) in cells.items():
        at = places[values]
        new.result[at] = math.inf if samples is not None else value  # asv takes the median in its place
        new.samples[at], new.number[at] = samples, number
    results.add_result({**benchmark, "params": params}, new, started_at=measured, record_samples=True,
                       append_samples=append, selected_idx={places[values] for values in cells})


def widen(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> list[list[str]]:
    """Joins the new axes and what only the old ones have behind it: a number that was measured stays."""
    if len(old) != len(new):
        return [list(values) for values in new]
    return [list(dict.fromkeys((*values, *before))) for before, values in zip(old, new, strict=True)]


def cut(params: Sequence[Sequence[str]], cells: Iterable[Sequence[str]]) -> list[list[str]]:
    """Returns the axes `params` without the values that none of `cells` has."""
    return [[value for value in values if value in seen]
            for values, seen in zip(params, map(set, zip(*cells, strict=True)), strict=True)]


def _benchmarks(folder: Path, index: Iterable[Series]) -> dict[str, dict[str, Any]]:
    """Updates asv's benchmarks.json to the series `index` as they are today: what it had besides stays."""
    path = Path(Benchmarks.get_benchmark_file_path(str(folder)))
    try:
        before = util.load_json(str(path), Benchmarks.api_version)
    except (OSError, util.UserError, ValueError, TypeError, LookupError, RecursionError):
        before = {}  # made anew
    return save_benchmarks(path, before, descriptions(index))


def save_benchmarks(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Adds to asv's list of benchmarks what they are `now`, on axes that hold the values of `before` as well."""
    listed = {**before, **now}
    for name, benchmark in now.items():
        if before.get(name, {}).get("version") == benchmark["version"]:
            listed[name] = benchmark | {"params": widen(before[name]["params"], benchmark["params"])}
    if listed != before:
        save_json(path, listed, Benchmarks.api_version)
    return listed


def save(results: Results, folder: Path) -> None:
    """Saves as asv does, but whoever reads meanwhile sees the old file or the new one."""
    with beside(folder) as new:
        Results.save(results, str(new))
        (folder / results._filename).parent.mkdir(exist_ok=True)
        os.replace(new / results._filename, folder / results._filename)


def save_json(path: Path, content: Mapping[str, Any], version: int) -> None:
    """Saves JSON so that whoever reads meanwhile sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path.parent) as folder:
        util.write_json(str(folder / path.name), content, version)
        os.replace(folder / path.name, path)
