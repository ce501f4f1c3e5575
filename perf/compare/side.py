"""One side of a comparison: the packages that are measured, the interpreter that imports them, and what tells it apart.

Under `folder` lie the measured packages and today's harness, or links to them. Two sides that are compared differ in
their packages (two commits) or in their interpreter (two environments).
"""
from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # where today's harness lies
PACKAGES = ("attention", "models")


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
