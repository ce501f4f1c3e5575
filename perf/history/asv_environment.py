"""Gives asv an environment for this project: nothing is built, and today's harness measures every commit.

A folder stands before everything else on the path of what asv starts: its `perf` leads to the tree that asv.conf.json
stands in, `attention` and `models` are those of asv's checkout of the commit, with today's judge. Only the running
Python is used, with what is installed there.
"""
from __future__ import annotations

import functools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from asv import environment, util
from asv import machine as asv_machine
from asv.commands import run
from asv.console import log

from perf.compare.checkout import judge_by_today, stand_in
from perf.compare.side import PACKAGES, ROOT, Side
from perf.history import asv_run, matrix, place
from perf.system.tools import ending, last_line


def setup() -> None:
    """Puts this project's classes in asv's place; asv calls it when it has loaded the plugin."""
    asv_run.install()
    run.Machine = Machine


@functools.cache
def harness_matrix() -> matrix.Matrix:
    """Asks a process of its own what today's harness measures, and of the machine: asv's process must not hold the GPU.

    Raises asv.util.UserError, in one line, for an impossible PERF_GRID or PERF_DEVICE.
    """
    variables = Side(ROOT, "the harness").variables()
    text, error, code = util.check_output(
        [sys.executable, "-m", matrix.__name__], cwd=ROOT, env=variables,
        valid_return_codes=None, return_stderr=True, display_error=False, dots=False)
    if code:
        raise util.UserError(last_line(error, f"perf: {ending(code)}"))
    return matrix.Matrix.from_json(text)


class Machine(asv_machine.Machine):
    """Is asv's record of the machine, by the fingerprint: ~/.asv-machine.json has no part in it."""

    @classmethod
    def load(cls, machine_name: str | None = None, **kwargs: Any) -> Machine:
        """Reads the machine; `machine_name` is asv's --machine. Raises as `harness_matrix`."""
        harness, self = harness_matrix(), cls()
        self.__dict__.update(place.machine(harness.fingerprint, harness.device.partition(":")[0]))
        self.machine = machine_name or self.machine
        return self


class Links(environment.Environment):
    """Is the running Python, and a folder of links."""

    tool_name = "links"
    matches_python_fallback = False

    def __init__(self, conf: Any, python: str, requirements: dict, tagged_env_vars: dict) -> None:
        running = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if python != running:
            log.warning(f"links: asv runs on Python {running}, so that is what measures; start asv with {python}")
            raise environment.EnvironmentUnavailable(f"no environment for Python {python}")
        self.matrix = harness_matrix()
        versions = place.requirements(self.matrix.fingerprint, self.matrix.device.partition(":")[0])
        requirements = {**requirements, **versions}  # part of its name: what is installed is told, never installed
        self._python, self._requirements = python, requirements  # the base class reads them before it sets them
        super().__init__(conf, python, requirements, tagged_env_vars)
        self._conf = conf
        self._links = Path(self._path, "links")
        self._matrix_file = Path(self._path, "matrix.json")
        self._created = False

    @classmethod
    def matches(cls, python: str) -> bool:
        """Says whether the running Python is the one that asv asks for."""
        return python == f"{sys.version_info[0]}.{sys.version_info[1]}"

    @property
    def installed_commit_hash(self) -> None:
        """Names no commit: the links are made anew for each, which takes no time."""
        return

    def check_presence(self) -> bool:
        """Says whether `create` has run."""
        return self._created

    def create(self) -> None:
        """Writes the matrix."""
        if self._created:
            return
        self._matrix_file.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.matrix)
        # What asv forks imports no torch: one process of its own measures (perf/history/asv_benchmark.py).
        self._conf.launch_method = self._conf.launch_method or "forkserver"
        self._created = True

    def select(self, cells: dict[str, list[int]]) -> None:
        """Tells the benchmarks, by the matrix's file, that these cells of each series are to be measured. asv knows all
        series by then, so a class is made of those with cells only: asv reads the source of each for every commit."""
        series = [one for one in self.matrix.series if cells[one.benchmark]]
        self._write(replace(self.matrix, series=series, selected=cells))

    def _write(self, selection: matrix.Matrix) -> None:
        self._matrix_file.write_text(selection.to_json(), encoding="utf-8")

    def install_project(self, conf: Any, repo: Any, commit_hash: str) -> None:
        """Checks the commit out and copies its packages. Raises asv.util.ProcessError if it has no attention/."""
        shutil.rmtree(self._links, ignore_errors=True)  # the links, not what they lead to
        self.checkout_project(repo, commit_hash)
        self._links.mkdir(parents=True)
        (self._links / "perf").symlink_to(ROOT / "perf")
        for package in PACKAGES:
            source = Path(self._build_root, package)
            if (source / "__init__.py").exists():
                shutil.copytree(source, self._links / package)
            else:
                self._missing(package, commit_hash)
        judge_by_today(self._links / PACKAGES[0])

    def _missing(self, package: str, commit_hash: str) -> None:
        reason = f"missing: commit {commit_hash[:8]} has no {package}/"
        if package == "attention":
            log.error(f"{reason}; all its figures are null")
            raise util.ProcessError(["link", package], 1, "", reason)
        log.warning(f"{reason}; its model benchmarks are null")
        stand_in(self._links / package, reason)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Runs the Python program `args` with the links before everything else on its path."""
        variables = Side(self._links, "a commit").variables({**(kwargs.pop("env", None) or os.environ),
                                                             **self._global_env_vars})
        variables["ASV_PYTHONPATH"] = variables["PYTHONPATH"]  # else asv's program drops it
        variables[matrix.FILE] = str(self._matrix_file)
        return util.check_output([sys.executable, *args], env=variables, **kwargs)
