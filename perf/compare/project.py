"""The repository whose revisions are measured: this one, or the one whose pytest ini says `perf_packages`.

    perf_packages = src/mykernels          # folders, relative to the ini file; the last part is the package's name
    perf_build = pip install . --no-deps --target {out}
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.config.findpaths import locate_config

from perf.compare.side import PACKAGES, ROOT

LIMIT = 1800.0  # seconds of a build


@dataclass(frozen=True)
class Project:
    """`places` are the packages' folders, relative to `root`; `build` is the command that makes them out of a revision,
    "" where nothing is built; it may take `limit` seconds."""

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
    def touched(self) -> str:
        """Writes the same for a reader: "attention/ or models/"."""
        return " or ".join(f"{place}/" for place in self.places) if self.paths else "anything"


@functools.cache
def project(root: Path) -> Project:
    """Reads the pytest ini of `root`. Raises ValueError, in one line, for one that names no packages of it."""
    told = _ini(root)[1]
    if not told.get("perf_packages"):
        return Project(root)
    places = tuple(str(place).strip("/") for place in told["perf_packages"].replace(",", " ").split())
    for place in places:
        if not (root / place / "__init__.py").exists():
            raise ValueError(f"perf_packages: {root} has no package {place}; name folders with an __init__.py")
    return Project(root, places, told.get("perf_build", ""), float(told.get("perf_build_seconds") or LIMIT))


def root() -> Path:
    """Gives the folder of the working directory's pytest ini if that names packages, else where the harness lies."""
    folder, told = _ini(Path.cwd())
    return folder if folder and told.get("perf_packages") else ROOT


def _ini(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Gives the folder of the pytest ini that holds for `folder`, and what it says as pytest reads it."""
    try:
        where, _, told, _ = locate_config(folder, [])
    except pytest.UsageError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return where, {name: _text(value.value) for name, value in told.items() if name.startswith("perf_")}


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
