"""Folders of a base and a head whose workers answer what a test tells them to (fake_worker.py)."""
from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from perf.compare import pair, process
from perf.compare.side import Side
from perf.tests import fake_worker
from perf.workloads.workload import BARE, Workload

SMALL = Workload(BARE, "softmax", "eager", "forward", True, 1, 2, 2, 32, 32, 8, "fp32")

Told = dict[str, Any]
Sides = Callable[..., tuple[Side, Side]]


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    """Makes the two folders; afterwards no worker may be left."""
    monkeypatch.setattr(process, "WORKER", "fake_worker")
    monkeypatch.setattr(pair, "choose_core", lambda: 0)
    monkeypatch.setattr(pair, "SHORTEST", math.inf)  # the machine that tests run on may be busy

    def made(base: Told | None = None, head: Told | None = None) -> tuple[Side, Side]:
        for name, told in (("base", base), ("head", head)):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            shutil.copy(fake_worker.__file__, folder)
            (folder / "behaviour.json").write_text(json.dumps(told or {}))
        return Side(tmp_path / "base", "the base"), Side(tmp_path / "head", "the head")

    yield made
    left = [child for child in psutil.Process().children(recursive=True) if "fake_worker" in child.cmdline()]
    assert not left


def measured(made: pair.Pair, rounds: int | None = None) -> float:
    """Takes one sample of SMALL."""
    made.prepare(SMALL)
    return made.log_ratio(SMALL, rounds)


def log(side: Side) -> list[list[Any]]:
    """Returns what the workers of both sides did: side, kind of request, n, when it began and ended, check, answer."""
    return [json.loads(line) for line in (side.folder.parent / "log").read_text().splitlines()]
