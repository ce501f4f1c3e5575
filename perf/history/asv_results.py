"""`asv run` saves what it measured, and loses nothing that another run wrote into the same file meanwhile.

asv loads a commit's file, measures for minutes, and writes it whole. Here the cells that this run changed are put into
what the file holds by then, under the lock that `perf.history.results` takes.
"""
from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any

from asv.results import Results
from filelock import FileLock

from perf.history.merge import COLUMNS, UNREADABLE, cells
from perf.history.results import widen
from perf.system.files import beside


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
        path = folder / self._filename
        with FileLock(folder / ".lock"):
            if path.exists():
                try:
                    there = Results.load(str(path))
                except UNREADABLE:
                    path.replace(path.with_suffix(".json.broken"))
                else:
                    self._take(there)
            with beside(folder) as new:
                super().save(str(new))
                path.parent.mkdir(exist_ok=True)
                os.replace(new / self._filename, path)

    def _take(self, there: Results) -> None:
        """Takes what the file has by now, where this run has changed nothing."""
        for name in there.get_all_result_keys():
            if name not in self._results:
                for column in (*COLUMNS, "_started_at", "_benchmark_version", "_benchmark_params"):
                    if name in getattr(there, column):
                        getattr(self, column)[name] = getattr(there, column)[name]
            elif there.benchmark_version.get(name) == self.benchmark_version.get(name):
                mine, before = cells(self, name), self.loaded.get(name, {})
                changed = {cell: content for cell, content in mine.items() if before.get(cell) != content}
                merged = {**mine, **cells(there, name), **changed}
                params = widen(there.get_result_params(name), self.get_result_params(name))
                chosen = [merged.get(cell, (math.nan, None, None)) for cell in itertools.product(*params)]
                for column, values in zip(COLUMNS, zip(*chosen, strict=True), strict=True):
                    getattr(self, column)[name] = list(values)
                self._benchmark_params[name] = params
