"""One side of a comparison: the packages that are measured, the interpreter that imports them, and what tells it apart.

Under `folder` lie the measured packages and today's harness, or links to them. Two sides that are compared differ in
their packages (two commits) or in their interpreter (two environments).
"""
from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # where today's harness lies
PACKAGES = ("attention", "models")
INJECT = "PERF_INJECT"  # of the environment: what fault to put into which calls of the head (perf/compare/inject.py)


@dataclass(frozen=True)
class Side:
    """Is what a process of one side needs: it runs `python` in `folder`.

    `name` tells a reader which side it is; `commit` is the full hash, None of a working tree. `versions` lists what is
    installed beside `python` where that is another environment than this process has. `missing` says why nothing of it
    can be measured, "" where something can.
    """

    folder: Path
    name: str
    packages: tuple[str, ...] = PACKAGES
    python: str = sys.executable
    commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def here(self) -> bool:
        """Tells whether it has this process's environment."""
        return self.python == sys.executable

    def variables(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Gives the environment variables of a process: its packages stand before every other."""
        path = [str(self.folder), *filter(None, [given.get("PYTHONPATH")])]
        return {**given, "PYTHONPATH": os.pathsep.join(path)}


def own_packages() -> list[str]:
    """Names the packages of the side whose folder this process works in. Raises ImportError where another would be
    measured: an installed one."""
    packages = list(Path.cwd().glob("*/__init__.py"))
    if not packages:
        raise ImportError(f"{Path.cwd()} holds no package to measure")
    for init in packages:
        name, spec = init.parent.name, importlib.util.find_spec(init.parent.name)
        if spec is None or not Path(spec.origin or "").resolve().samefile(init):
            raise ImportError(f"{name}/ is that of {spec and spec.origin}, not of {Path.cwd()}")
    return [init.parent.name for init in packages]


def installed_modules(before: Set[str]) -> list[str]:
    """Lists the modules of installed packages that were imported since there were those of `before`."""
    places = tuple({sysconfig.get_path(place) for place in ("purelib", "platlib", "stdlib", "platstdlib")})
    return sorted(name for name in set(sys.modules) - before if _installed(name, places))


def _installed(name: str, places: tuple[str, ...]) -> bool:
    """Tells whether a module is of a package installed in `places` or of Python itself: neither of a side nor made by a
    compiler."""
    if name.partition(".")[0] in (*PACKAGES, "perf"):
        return False
    spec = getattr(sys.modules[name], "__spec__", None)
    return bool(spec and spec.name == name and spec.origin and spec.origin.startswith(places))
