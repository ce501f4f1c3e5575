"""Tests what ends a run: slow rows are named with their command, and a report that can't be written loses nothing."""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.bench.prepare import Preparer
from perf.measure.evidence import Evidence
from perf.run.ending import FEW, HINTS, ending
from perf.run.options import Settings
from perf.run.spending import Spending
from perf.workloads.grids import grid
from perf.workloads.workload import Workload

CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")


def row(backend: str, seconds: float, n: int = 512) -> Evidence:
    return Evidence(replace(CELL, backend=backend, n=n, m=n), "ok", samples=(seconds,), median=seconds, machine="m")


def told(tmp_path: Path, *rows: Evidence, report: Path | None = None, verbose: bool = False) -> list[str]:
    settings = Settings(torch.device("cpu"), "default", [r.workload for r in rows], tmp_path / "evidence.jsonl",
                        report=report)
    session: Any = SimpleNamespace(settings=settings, rows=list(rows), spending=Spending(), notes=["a worker failed"],
                                   watch=SimpleNamespace(unwatched="clocks are not watched"))
    return list(ending(session, ["perf/", "--benchmark-only"], tmp_path, verbose=verbose))


SLOW = "x as long as eager"


@pytest.fixture(autouse=True)
def shell(monkeypatch):
    """Takes the tests out of tox."""
    monkeypatch.delenv("TOX_ENV_NAME", raising=False)


def test_a_slow_row_is_told_with_the_command_that_profiles_it(tmp_path):
    lines = told(tmp_path, row("eager", 1.0), row("tiled", 2.0), row("sdpa", 0.5), row("sdpa-math", 1.05))
    hint, = (line for line in lines if SLOW in line)
    assert hint.startswith("softmax:tiled takes 2.0x as long as eager; where it goes: python -m pytest "
                           "'perf/test_attention.py::test_attention[softmax:tiled-")
    assert "--perf-profile=torch" in hint


def test_hints_are_few_unless_all_is_asked_for(tmp_path):
    lengths = (512, 1024, 2048, 4096, 8192, 16384)
    slow = [one for i, n in enumerate(lengths) for one in (row("eager", 1.0, n), row("tiled", 2.0 + i, n))]
    hints = [line.split("takes ")[1].split("x")[0] for line in told(tmp_path, *slow) if SLOW in line]
    assert hints == ["7.0", "6.0", "5.0"]
    assert len(hints) == HINTS
    assert len([line for line in told(tmp_path, *slow, verbose=True) if SLOW in line]) == len(lengths)


def test_a_kernel_that_is_no_product_is_a_hint(tmp_path):
    rows = [replace(row("eager", 1.0), kernel_shares={"aten::copy_": 0.8, "aten::bmm": 0.2}),
            replace(row("sdpa", 0.9), kernel_shares={"aten::copy_": 0.6, "aten::bmm": 0.4})]
    hint, = (line for line in told(tmp_path, *rows) if "no matrix product takes" in line)
    assert hint.startswith(f"{rows[0].workload.id}: copy_ 80%^: ")
    assert "and so in 1 more rows" in " ".join(" ".join(told(tmp_path, *rows)).split())


def test_many_rows_have_a_line_a_comparison(tmp_path):
    """The whole default grid of a CPU stays within 120 lines, pytest's own included."""
    rows = default_grid()
    assert len(rows) > FEW
    lines = told(tmp_path, *rows)
    assert len(lines) <= 105
    assert max(map(len, [line for line in lines if "where it goes: " not in line])) <= 120
    assert sum("skipped: " in line for line in lines) <= 3
    assert len(told(tmp_path, *rows, verbose=True)) > 200


def test_what_to_do_next_ends_it(tmp_path):
    lines = told(tmp_path, row("eager", 1.0))
    assert lines[-4] == "evidence in evidence.jsonl; next:"
    assert "python -m perf report evidence.jsonl" in lines[-3]
    assert "--perf-against main" in lines[-2]
    assert "CUDA GPU" in lines[-1]


def test_in_an_environment_of_tox_its_python_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TOX_ENV_NAME", "perf")
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / ".tox" / "perf" / "bin" / "python"))
    lines = told(tmp_path, row("eager", 1.0), row("tiled", 2.0))
    commands = [line for line in lines if ".tox/perf/bin/python -m " in line]
    assert len(commands) == 3
    assert not any(" python -m" in line for line in lines)


def test_the_purpose_of_a_long_command_stands_above_it(tmp_path, monkeypatch):
    """tox's Python has a long path where pytest was called in another project's folder."""
    monkeypatch.setenv("TOX_ENV_NAME", "tests")
    monkeypatch.setattr(sys, "executable", f"/{'long/' * 12}.tox/tests/bin/python")
    lines = told(tmp_path, row("eager", 1.0))
    at = next(i for i, line in enumerate(lines) if line.endswith(" --perf-against main"))
    assert lines[at - 1] == "  # did a change make anything slower?"


def default_grid() -> list[Evidence]:
    """Returns made-up times of the default grid of a CPU, each row as doubtful and as slow as it can be."""
    preparer, rows = Preparer(torch.device("cpu")), []
    for i, w in enumerate(grid("default", "cpu")):
        if reason := preparer.why_not(w):
            rows.append(Evidence(w, "skipped", reason=reason, machine="m"))
        else:
            rows.append(Evidence(w, "ok", median=1e-3 * (1 + i % 7), interval=0.01, error=1e-7, bound=1e-6,
                                 clock="perf_counter", kernel_shares={"aten::_softmax_of_a_long_name": 0.9},
                                 attention_share=None if w.bare else 0.1, foreign_cores=1.0 + i, machine="m"))
    return rows


def test_nothing_slow_is_no_line(tmp_path):
    assert not any(SLOW in line for line in told(tmp_path, row("eager", 1.0), row("sdpa", 0.5)))


def test_notes_and_what_is_not_watched_are_told(tmp_path):
    lines = told(tmp_path, row("eager", 1.0))
    assert "a worker failed" in lines
    assert "clocks are not watched" in lines


def test_a_report_is_written_or_its_failure_told(tmp_path):
    lines = told(tmp_path, row("eager", 1.0), report=tmp_path / "page.html")
    assert "report in page.html" in lines
    assert "softmax" in (tmp_path / "page.html").read_text()
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert any(line.startswith("no report: ") for line in told(tmp_path, row("eager", 1.0),
                                                               report=blocked / "page.html"))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_table_comes_first(tmp_path, backend):
    assert told(tmp_path, row(backend, 1.0))[0].lstrip().startswith("-")
