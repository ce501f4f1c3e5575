"""Prepares the results that `asv publish` gets: it leaves out what would stop asv, or clutter its pages.

asv shows the whole product of a benchmark's axes, thousands of cells of which a run measures some dozens: the copy's
axes keep the values at which something was measured.
"""
from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from asv.machine import Machine
from asv.results import Results
from asv.util import is_na, load_json

from perf.history.merge import NOT_RESULTS, UNREADABLE
from perf.history.results import cut
from perf.system import git
from perf.system.tools import first_line

Cells = set[tuple[str, ...]]


def stage(results: Path, to: Path, repository: Path) -> dict[Path, str]:
    """Copies to the folder `to` what asv can publish of `results`; tells which files it can't, and why.

    Raises ValueError, in one line, if nothing is left.
    """
    benchmarks = _benchmarks(results)
    commits = _commits(repository)
    left_out: dict[Path, str] = {}
    measured: dict[str, Cells] = {}
    for folder in sorted({path.parent for path in results.glob("*/*.json")}):
        try:
            machine = load_json(str(folder / "machine.json"), Machine.api_version)["machine"]
        except UNREADABLE as error:
            left_out[folder / "machine.json"] = first_line(error)
            continue
        for path in sorted(path for path in folder.glob("*.json") if path.name not in NOT_RESULTS):
            try:
                _add_measured(_read(path, machine, commits), benchmarks, measured)
            except UNREADABLE as error:
                left_out[path] = first_line(error)
                continue
            (to / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / folder.name)
            shutil.copy(folder / "machine.json", to / folder.name)
    if not measured:
        raise ValueError(f"{results}: nothing that asv could draw; run asv run, or pytest perf/ --benchmark-only "
                         "--perf-history")
    pruned = {name: benchmarks[name] | {"params": cut(benchmarks[name]["params"], cells)}
              for name, cells in measured.items()}
    (to / "benchmarks.json").write_text(json.dumps({**pruned, "version": benchmarks["version"]}), encoding="utf-8")
    return left_out


def _benchmarks(results: Path) -> dict[str, Any]:
    path = results / "benchmarks.json"
    try:
        benchmarks = json.loads(path.read_text(encoding="utf-8"))
        version = benchmarks.pop("version")
        return {name: one for name, one in benchmarks.items() if one["params"]} | {"version": version}
    except OSError:
        raise ValueError(f"{results}: no history yet (no benchmarks.json); run asv run, or pytest perf/ "
                         "--benchmark-only --perf-history") from None
    except UNREADABLE as error:
        raise ValueError(f"{path}: not asv's list of benchmarks: {first_line(error)}; write it again by asv run "
                         "--bench just-discover") from None


def _commits(repository: Path) -> set[str]:
    try:
        return set(git.text(repository, "rev-list", "--all").split())
    except ValueError as error:
        raise ValueError(f"{repository}: git can't list its commits: {error}") from None


def _read(path: Path, machine: str, commits: Collection[str]) -> Results:
    results = Results.load(str(path), machine_name=machine)
    if results.commit_hash not in commits:
        raise ValueError(f"commit {results.commit_hash} is not in this repository; fetch it (git fetch --unshallow)")
    return results


def _add_measured(results: Results, benchmarks: Mapping[str, Any], measured: dict[str, Cells]) -> None:
    """Adds the cells that have a figure. All of a file or nothing: it may turn out to be broken."""
    cells_by_name: dict[str, Cells] = {}
    for name in results.get_result_keys(benchmarks):
        params = results.get_result_params(name)
        column = results._results[name]  # as the file has it: asv would fill up what is too short
        if column is not None and len(column) != math.prod(map(len, params)):
            raise ValueError(f"{name} has {len(column)} figures, its axes have {math.prod(map(len, params))}")
        values = results.get_result_value(name, params)
        results.get_result_stats(name, params)
        cells = {cell for cell, value in zip(product(*params), values, strict=True) if not is_na(value)}
        if cells:
            cells_by_name[name] = cells
    for name, cells in cells_by_name.items():
        measured.setdefault(name, set()).update(cells)
