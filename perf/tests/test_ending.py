"""What ends a run: slow rows are named with their command, and a report that can't be written loses nothing."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.measure.evidence import Evidence
from perf.run.ending import MOST, ending
from perf.run.options import Settings
from perf.run.spending import Spending
from perf.workloads.workload import Workload

CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")


def row(backend: str, seconds: float, n: int = 512) -> Evidence:
    return Evidence(replace(CELL, backend=backend, n=n, m=n), "ok", samples=(seconds,), median=seconds, machine="m")


def told(tmp_path: Path, *rows: Evidence, report: Path | None = None) -> list[str]:
    settings = Settings(torch.device("cpu"), "default", [r.workload for r in rows], tmp_path / "evidence.jsonl",
                        report=report)
    session: Any = SimpleNamespace(settings=settings, rows=list(rows), spending=Spending(), notes=["a worker failed"],
                                   watch=SimpleNamespace(unwatched="clocks are not watched"))
    return list(ending(session, ["perf/", "--benchmark-only"], tmp_path))


def test_a_slow_row_is_told_with_the_command_that_profiles_it(tmp_path):
    lines = told(tmp_path, row("eager", 1.0), row("tiled", 2.0), row("sdpa", 0.5), row("sdpa-math", 1.05))
    at = lines.index("1 row is more than 10% slower than the baseline; to see where the time goes:")
    assert "2.0x  pytest 'perf/test_attention.py::test_attention[softmax:tiled-" in lines[at + 1]
    assert "--perf-profile=torch" in lines[at + 1]
    assert not any("sdpa-math-" in line for line in lines[at + 1:])


def test_only_the_worst_have_their_commands(tmp_path):
    lengths = (512, 1024, 2048, 4096, 8192, 16384)
    slow = [one for i, n in enumerate(lengths) for one in (row("eager", 1.0, n), row("tiled", 2.0 + i, n))]
    lines = told(tmp_path, *slow)
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{len(lengths)} rows are"))
    shown = [line.split()[0] for line in lines[at + 1:] if "--perf-profile" in line]
    assert shown == ["7.0x", "6.0x", "5.0x", "4.0x", "3.0x"]
    assert len(shown) == MOST


def test_nothing_slow_is_no_line(tmp_path):
    assert not any("slower than" in line for line in told(tmp_path, row("eager", 1.0), row("sdpa", 0.5)))


def test_notes_and_what_is_not_watched_are_told(tmp_path):
    lines = told(tmp_path, row("eager", 1.0))
    assert "a worker failed" in lines
    assert "clocks are not watched" in lines
    assert lines[-1] == "evidence in evidence.jsonl"


def test_a_report_is_written_or_its_failure_told(tmp_path):
    lines = told(tmp_path, row("eager", 1.0), report=tmp_path / "page.html")
    assert lines[-1] == "report in page.html"
    assert "softmax" in (tmp_path / "page.html").read_text()
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert told(tmp_path, row("eager", 1.0), report=blocked / "page.html")[-1].startswith("no report: ")


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_table_comes_first(tmp_path, backend):
    assert told(tmp_path, row(backend, 1.0))[0].lstrip().startswith("-")
