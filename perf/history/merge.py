"""Makes one of two folders of asv's results, and forgets what is old. Nothing measured is lost by a merge.

A cell that both files have is the later run's: that of the file whose benchmark was started later. One that a file
does not have (asv's NaN) is the other's.
"""
from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.machine import Machine
from asv.results import Results
from filelock import FileLock

from perf.history.results import save, save_benchmarks, save_json, widen
from perf.system.tools import first_line

UNREADABLE = (util.UserError, OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
              SyntaxError, RecursionError, MemoryError)  # of asv's own code, and of Python's where it reads the axes
NOT_RESULTS = ("machine.json", "benchmarks.json")
DAY = 24 * 60 * 60
COLUMNS = ("_results", "_samples", "_stats")  # a list each, a cell a place
SCALARS = ("_started_at", "_benchmark_version")


def merge_folders(source: Path, target: Path) -> list[str]:
    """Brings what `source` has into `target`. Returns what could not be read, a line each: it stays where it is."""
    problems = []
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target / ".lock"):
        for path in result_files(source):
            try:
                _merge_file(path, target, target / path.relative_to(source))
            except UNREADABLE as error:
                problems.append(f"{path}: {first_line(error)}")
        try:
            _merge_benchmarks(source, target)
        except UNREADABLE as error:
            problems.append(f"{source}/benchmarks.json: {first_line(error)}")
    return problems


def result_files(folder: Path) -> Iterator[Path]:
    """Lists the results files in a folder: one level down, in their machines' folders."""
    for path in sorted(folder.glob("*/*.json")):
        if path.name not in NOT_RESULTS and not path.parent.name.startswith("."):
            yield path


def _merge_file(path: Path, target: Path, to: Path) -> None:
    results = Results.load(str(path), machine_name=path.parent.name)
    if there := load(to):
        results = merge(results, there)
    machine = to.parent / "machine.json"
    if not machine.exists():
        record = util.load_json(str(path.parent / "machine.json"), Machine.api_version)
        save_json(machine, record, Machine.api_version)
    save(results, target)


def load(path: Path) -> Results | None:
    """Reads a results file; None if there is none that can be read. One that can't be gets the ending .broken."""
    if not path.exists():
        return None
    try:
        return Results.load(str(path), machine_name=path.parent.name)
    except UNREADABLE:
        path.replace(path.with_suffix(".json.broken"))
        return None


def merge(one: Results, other: Results) -> Results:
    """Adds to `one` what `other` has of the same commit, machine and environment."""
    for name in other.get_all_result_keys():
        later = _started(other, name) > _started(one, name)
        if name not in one.get_all_result_keys() or (
                later and other.benchmark_version.get(name) != one.benchmark_version.get(name)):
            copy(other, one, name)
        elif other.benchmark_version.get(name) == one.benchmark_version.get(name):
            _merge_cells(*((one, other) if not later else (other, one)), name, into=one)
    return one


def _merge_cells(first: Results, second: Results, name: str, into: Results) -> None:
    """Takes the cells of `first`, and where it has none those of `second`."""
    params = widen(second.get_result_params(name), first.get_result_params(name))
    put(into, name, params, cells(second, name) | cells(first, name))
    copy(first, into, name, SCALARS)


def put(results: Results, name: str, params: list[list[str]], content: Mapping[tuple[str, ...], Any]) -> None:
    """Sets the axes of a benchmark and its cells; one that `content` lacks was not measured."""
    chosen = [content.get(cell, (math.nan, None, None)) for cell in itertools.product(*params)]
    for column, values in zip(COLUMNS, zip(*chosen, strict=True), strict=True):
        getattr(results, column)[name] = list(values)
    results._benchmark_params[name] = params


def copy(source: Results, target: Results, name: str,
         columns: Sequence[str] = (*COLUMNS, *SCALARS, "_benchmark_params")) -> None:
    """Copies what `source` has of a benchmark."""
    for column in columns:
        if name in getattr(source, column):
            getattr(target, column)[name] = getattr(source, column)[name]


def cells(results: Results, name: str) -> dict[tuple[str, ...], tuple[Any, Any, Any]]:
    """Maps parameters to value, samples and statistics, but for cells that were not measured. Raises ValueError where
    the file has another number of these than of cells."""
    if results._results[name] is None:
        return {}
    params = results.get_result_params(name)
    places = list(itertools.product(*params))
    columns: list[Sequence[Any]] = [getattr(results, column)[name] or [None] * len(places) for column in COLUMNS]
    for column in columns:
        if len(column) != len(places):
            raise ValueError(f"{len(column)} values for {len(places)} cells of {name}")
    return {place: tuple(content) for place, *content in zip(places, *columns, strict=True)
            if not (isinstance(content[0], float) and math.isnan(content[0]))}


def _started(results: Results, name: str) -> float:
    return results.started_at.get(name) or 0.0


def _merge_benchmarks(source: Path, target: Path) -> None:
    """Merges what each benchmark is: the source's word counts, on axes that hold the target's values as well."""
    paths = [Path(Benchmarks.get_benchmark_file_path(str(folder))) for folder in (source, target)]
    if not paths[0].exists():
        return
    theirs, there = (util.load_json(str(path), Benchmarks.api_version) if path.exists() else {} for path in paths)
    save_benchmarks(paths[1], there, theirs)


def prune(folder: Path, *, days: float, sample_days: float, now: float | None = None) -> tuple[int, int, list[str]]:
    """Forgets the commits that are older than `days`, and the samples of those older than `sample_days`; their
    statistics stay. Returns how many files went, how many lost samples, and what could not be read."""
    now = time.time() if now is None else now
    gone, lighter, problems = 0, 0, []
    with FileLock(folder / ".lock"):
        for path in result_files(folder):
            try:
                results = Results.load(str(path), machine_name=path.parent.name)
                age = (now - results.date / 1000) / DAY
                if age > days:
                    path.unlink()
                    gone += 1
                elif age > sample_days and any(results._samples.values()):
                    for name in results.get_all_result_keys():
                        results.remove_samples(name)
                    save(results, folder)
                    lighter += 1
            except UNREADABLE as error:
                problems.append(f"{path}: {first_line(error)}")
    return gone, lighter, problems
