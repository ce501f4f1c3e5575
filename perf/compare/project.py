"""The repository whose revisions are measured: this one, or the one whose pytest ini says `perf_packages`; and how a
revision of it is built, where that is needed.

    perf_packages = src/mykernels          # folders, relative to the ini file; the last part is the package's name
    perf_build = pip install . --no-deps --target {out}          # any command with {out}, run in the revision's tree

What a build leaves in {out} is kept in `.perf/builds`, by the tree's hash, the command, Python and torch; a failure is
not.
"""
from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from _pytest.config.findpaths import locate_config

from perf.compare.side import PACKAGES, ROOT
from perf.system import files, git
from perf.system.tools import ending, first_line

LIMIT = 1800.0  # seconds of a build
BUILDS = Path(".perf/builds")


@dataclass(frozen=True)
class Project:
    """Is a repository at `root` whose `places` are the packages' folders; `build` is the command that makes them out of
    a revision, "" where nothing is built; it may take `limit` seconds."""

    root: Path
    places: tuple[str, ...] = PACKAGES
    build: str = ""
    limit: float = LIMIT

    @property
    def packages(self) -> tuple[str, ...]:
        """Lists the names that are imported."""
        return tuple(Path(place).name for place in self.places)

    @property
    def paths(self) -> tuple[str, ...]:
        """Lists what a commit has to touch to count: anything may go into a build."""
        return () if self.build else self.places

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Lists the words that name the benchmarks to pytest, in `root`."""
        return ("perf/",) if self.places == PACKAGES else ("--pyargs", "perf")

    @property
    def touched(self) -> str:
        """Writes the same for a reader: "attention/ or models/"."""
        return " or ".join(f"{place}/" for place in self.places) if self.paths else "anything"


@functools.cache
def project(root: Path) -> Project:
    """Reads the pytest ini of `root`. Raises ValueError, in one line, for one that names no packages of it."""
    settings = _ini(root)[1]
    if not settings.get("perf_packages"):
        return Project(root)
    places = tuple(str(place).strip("/") for place in settings["perf_packages"].replace(",", " ").split())
    for place in places:
        if not (root / place / "__init__.py").exists():
            raise ValueError(f"perf_packages: {root} has no package {place}; name folders with an __init__.py")
    return Project(root, places, settings.get("perf_build", ""), float(settings.get("perf_build_seconds") or LIMIT))


def root() -> Path:
    """Gives the folder of the working directory's pytest ini if that names packages, else where the harness lies."""
    folder, settings = _ini(Path.cwd())
    return folder if folder and settings.get("perf_packages") else ROOT


def _ini(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Gives the folder of the pytest ini that holds for `folder`, and what it says as pytest reads it."""
    try:
        where, _, settings, _ = locate_config(folder, [])
    except pytest.UsageError as error:
        raise ValueError(first_line(error)) from None
    values = {name: one.value for name, one in settings.items() if name.startswith("perf_")}
    return where, {name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
                   for name, value in values.items()}


def build(tree: str, this: Project, folder: Path) -> str:
    """Builds a commit or tree, unless it was built before, and links its packages into the folder.

    Returns why there are none, in one line, or "". Raises ValueError for a command without {out}.
    """
    if "{out}" not in this.build:
        raise ValueError(f"perf_build: {this.build!r} has no {{out}}; say where the packages are to go, such as pip "
                         "install . --no-deps --target {out}")
    name = git.text(this.root, "rev-parse", f"{tree}^{{tree}}")
    key = hashlib.sha256("\0".join((name, this.build, sys.version, version("torch"))).encode()).hexdigest()[:16]
    store = this.root / BUILDS / key
    if not store.exists():
        store.parent.mkdir(parents=True, exist_ok=True)
        with files.beside(store.parent) as scratch:
            source, out = scratch / "source", scratch / "out"
            source.mkdir()
            out.mkdir()
            git.extract(this.root, name, source)
            if reason := _failure(source, out, this):
                return f"the build failed: {reason}"
            shutil.move(out, store)
    for package in this.packages:
        (folder / package).symlink_to(store / package)
    return ""


def _failure(source: Path, out: Path, this: Project) -> str:
    """Runs the command; returns why it left no packages, in one line, or ""."""
    command = this.build.replace("{out}", shlex.quote(str(out)))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(command, shell=True, cwd=source, env={**os.environ, "PATH": path},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=this.limit)
    except subprocess.TimeoutExpired:
        return f"it took longer than {this.limit:g} s; perf_build_seconds allows more"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        return _error(output) or ending(process.returncode)
    lacking = [package for package in this.packages if not (out / package / "__init__.py").exists()]
    return f"it left no {lacking[0]}/ in {{out}}" if lacking else ""


def _error(output: str) -> str:
    """Finds the last line of a compiler's that names an error; the last line at all where none does."""
    lines = [line.strip() for line in output.strip().splitlines() if line.strip()]
    of_compiler = [line for line in lines if " error: " in line or "fatal error" in line]
    return (of_compiler or lines or [""])[-1]
