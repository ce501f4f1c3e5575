"""Tests what asv finds in the suite, and what it gets when it runs a cell."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from perf.bench.subject import Subject
from perf.history import asv_benchmark, matrix
from perf.history.figures import FOLDER, Cell, Figures
from perf.history.series import FIGURES, VERSION, series
from perf.measure import switches
from perf.workloads.workload import Workload

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "perf" / "history" / "asv_suite"
CELL = Workload("attention", "softmax", "tiled", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")


def discover(path, *, before="", **variables):
    """Returns what asv finds, in a process of its own that first runs `before`."""
    program = f"""{before}
import sys
from asv_runner.discovery import _discover
_discover(sys.argv[1:])
"""
    out = path / "found.json"
    subprocess.run([sys.executable, "-c", program, SUITE, out], cwd=path, check=True, timeout=60,
                   env={**os.environ, "PYTHONPATH": str(ROOT), **variables})
    return {benchmark["name"]: benchmark for benchmark in json.loads(out.read_text())}


@pytest.fixture(scope="module")
def built():
    return matrix.build("quick", "cpu")


def test_discovery_finds_every_figure_without_torch(built, tmp_path):
    file = tmp_path / "matrix.json"
    file.write_text(built.to_json())
    found = discover(tmp_path, before="import sys; sys.modules['torch'] = None", PERF_MATRIX=str(file))
    assert set(found) == {f"{one.benchmark}.{figure}" for one in built.series for figure in FIGURES}
    for one in built.series:
        for figure, unit in FIGURES.items():
            benchmark = found[f"{one.benchmark}.{figure}"]
            assert benchmark["unit"] == unit
            assert benchmark["version"] == VERSION
            assert benchmark["param_names"] == list(one.axes)
            assert math.prod(map(len, benchmark["params"])) == len(one.cells())
    assert asv_benchmark.descriptions(built.series) == found  # what pytest puts in benchmarks.json


def test_import_touches_no_cuda(built, tmp_path):
    """A process forked by one that has initialised CUDA can't use the GPU."""
    file = tmp_path / "matrix.json"
    file.write_text(built.to_json())
    forbid = """
import torch
def initialize():
    raise AssertionError("the suite initialises CUDA")
torch.cuda._lazy_init = initialize
"""
    found = discover(tmp_path, before=forbid, PERF_MATRIX=str(file), PERF_PRELOAD="1")
    assert "attention.SoftmaxForwardH16D128Bf16.time_call" in found


@pytest.fixture
def benchmark_class(monkeypatch):
    (one,) = series([CELL]).values()
    small = matrix.Matrix("quick", "cpu", [one], {one.benchmark: [0]})
    monkeypatch.setattr(asv_benchmark, "current", lambda: small)
    monkeypatch.delenv(FOLDER, raising=False)
    return asv_benchmark.classes("attention")[one.name]


def measured(benchmark_class, figure):
    """Returns a figure as asv's own runner measures it; None if `setup` skips the cell."""
    from asv_runner.benchmarks.time import TimeBenchmark
    from asv_runner.benchmarks.track import TrackBenchmark

    kind = TimeBenchmark if figure.startswith("time") else TrackBenchmark
    instance = benchmark_class()
    benchmark = kind(figure, getattr(instance, figure), [getattr(instance, figure), instance])
    benchmark.set_param_idx(0)
    return None if benchmark.do_setup() else benchmark.do_run()


def test_figures_of_a_cell(benchmark_class):
    assert 0 < measured(benchmark_class, "track_error") <= 1
    assert measured(benchmark_class, "track_peak_bytes") > 0
    for of_others in ("track_model_bytes", "track_launches", "track_compile_cold", "track_quality_loss"):
        assert math.isnan(measured(benchmark_class, of_others))
    timed = measured(benchmark_class, "time_call")
    assert len(timed["samples"]) >= 3
    assert timed["number"] >= 1
    assert all(0 < seconds < 1 for seconds in timed["samples"])


def test_every_sample_starts_with_a_flush_and_takes_the_clock(benchmark_class, monkeypatch):
    from perf.measure.clocks import Plan

    events: list[str] = []

    class Clock:
        def prepare(self, call, *, graph, renew):
            events.clear()
            return Plan(call, 4, 1, lambda: events.append("flush"), 1e-3, "script")

        def timer(self):
            events.append("read")
            return float(len(events))

    monkeypatch.setattr(Cell, "clock", Clock())
    monkeypatch.setattr(Subject, "__init__", lambda self, *_: setattr(self, "workload", CELL))
    monkeypatch.setattr(Subject, "call", staticmethod(lambda: events.append("call")), raising=False)
    monkeypatch.setattr(Cell, "figures", Figures())
    monkeypatch.setattr(Cell, "prove", lambda self: events.append("proof"))
    monkeypatch.setattr(Subject, "prepared", SimpleNamespace(renew=None), raising=False)
    monkeypatch.setattr(Subject, "switches", switches.positions(), raising=False)
    timed = measured(benchmark_class, "time_call")
    assert len(timed["samples"]) == 4
    uncounted, counted = ["read", "call", "read", "proof"], ["flush", "read", "call", "read"]
    assert events == uncounted + 4 * counted


def test_unselected_cell_is_skipped(benchmark_class):
    benchmark_class.selected = frozenset()
    assert [measured(benchmark_class, figure) for figure in FIGURES] == [None] * len(FIGURES)


def test_cell_that_cannot_run_here_is_skipped(benchmark_class, monkeypatch, capsys):
    monkeypatch.setattr(Cell, "figures", Figures(reason="no such kernel on cpu"))
    assert measured(benchmark_class, "time_call") is None
    assert "no such kernel on cpu" in capsys.readouterr().out


def test_wrong_variant_has_an_error_and_no_time(benchmark_class, monkeypatch):
    monkeypatch.setattr(Cell, "figures", Figures(error=7.0, wrong="softmax:tiled is numerically wrong: out"))
    assert measured(benchmark_class, "track_error") == 7.0
    for figure in set(FIGURES) - {"track_error"}:
        with pytest.raises(RuntimeError, match="numerically wrong"):
            measured(benchmark_class, figure)


def test_figures_are_found_once_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first = Cell(CELL, "cpu").figures
    monkeypatch.setattr(Cell, "_measured", lambda self: pytest.fail("measured again"))
    assert Cell(CELL, "cpu").figures == first
    assert first.error is not None


def test_commit_without_the_backend_is_null(monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    unknown = Workload("attention", "softmax", "tomorrow", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")
    reason = Cell(unknown, "cpu").figures.reason
    assert reason is not None
    assert "tomorrow" in reason
