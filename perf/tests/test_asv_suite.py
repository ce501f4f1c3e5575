"""Tests what asv finds in the suite, and what it gets when it runs a cell."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perf.compare.side import Side
from perf.history import asv_benchmark, asv_environment, matrix, process
from perf.history.process import Run
from perf.history.series import FIGURES, VERSION, series
from perf.measure import machine
from perf.measure.evidence import Evidence, Writer, load
from perf.run import commit
from perf.workloads.grids import grid
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
    subprocess.run([sys.executable, "-c", program, SUITE, out], cwd=path, check=True, timeout=240,
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


@pytest.fixture
def benchmark_class(monkeypatch, tmp_path):
    """Gives the class of a series of one cell; what measures it does so in this process, in asv's folder of the
    cache."""
    (one,) = series([CELL]).values()
    small = matrix.Matrix("quick", "cpu", [one], {one.benchmark: [0]})
    monkeypatch.setattr(asv_benchmark, "current", lambda: small)
    monkeypatch.setattr(process, "measuring", lambda run: lambda side, evidence: commit.measure(run, evidence))
    monkeypatch.chdir(tmp_path)
    return asv_benchmark.classes("attention")[one.name]


def finds(**found):
    asv_benchmark.FOUND.write_text(json.dumps({CELL.id: found}))


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
    benchmark_class().setup_cache()
    assert 0 < measured(benchmark_class, "track_error") <= 1
    assert measured(benchmark_class, "track_peak_bytes") > 0
    for of_others in ("track_model_bytes", "track_launches", "track_compile_cold", "track_quality_loss"):
        assert math.isnan(measured(benchmark_class, of_others))
    timed = measured(benchmark_class, "time_call")
    assert len(timed["samples"]) >= 3
    assert timed["number"] >= 1
    assert all(0 < seconds < 1 for seconds in timed["samples"])


def test_the_samples_are_played(benchmark_class):
    finds(figures={"samples": [0.5, 0.25, 0.125]})
    assert measured(benchmark_class, "time_call") == {"samples": [0.5, 0.25, 0.125], "number": 1}


def test_unselected_cell_is_skipped(benchmark_class):
    benchmark_class.selected = frozenset()
    assert [measured(benchmark_class, figure) for figure in FIGURES] == [None] * len(FIGURES)


@pytest.mark.parametrize("outcome", ["skipped", "invalid"])
def test_cell_that_cannot_run_here_is_skipped(benchmark_class, capsys, outcome):
    finds(outcome=outcome, reason="no such kernel on cpu")
    assert measured(benchmark_class, "time_call") is None
    assert "no such kernel on cpu" in capsys.readouterr().out


def test_cell_that_failed_fails(benchmark_class):
    finds(outcome="failed", reason="its process ended: SIGSEGV")
    with pytest.raises(RuntimeError, match="its process ended: SIGSEGV"):
        measured(benchmark_class, "track_error")


def test_wrong_variant_has_an_error_and_no_time(benchmark_class):
    finds(figures={"error": 7.0, "wrong": "softmax:tiled is numerically wrong: out"})
    assert measured(benchmark_class, "track_error") == 7.0
    for figure in set(FIGURES) - {"track_error"}:
        with pytest.raises(RuntimeError, match="numerically wrong"):
            measured(benchmark_class, figure)


def test_all_series_are_measured_by_one_process(built):
    described = asv_benchmark.descriptions(built.series).values()
    assert len({one["setup_cache_key"] for one in described}) == 1 < len(built.series)
    assert sorted(w.id for w in built.workloads()) == sorted(w.id for w in grid("quick", "cpu"))


def test_after_discovery_a_class_is_made_of_what_is_measured(built, tmp_path, monkeypatch):
    cells = {one.benchmark: built.selected[one.benchmark][:1] for one in built.series}
    links = asv_environment.Links.__new__(asv_environment.Links)
    links.matrix, links._matrix_file = built, tmp_path / "matrix.json"
    links.select(cells)
    left = matrix.Matrix.from_json(links._matrix_file.read_text())
    assert {one.benchmark for one in left.series} == {name for name, numbers in cells.items() if numbers}
    assert len(left.workloads()) == len(left.series) < len(built.series)
    monkeypatch.setattr(asv_benchmark, "current", lambda: left)
    assert len(asv_benchmark.classes("attention")) + len(asv_benchmark.classes("models")) == len(left.series)


def test_the_folder_of_the_matrix_is_a_machine_s(benchmark_class, monkeypatch, tmp_path):
    """It keeps the ceilings from commit to commit, and nothing of another commit's evidence."""
    folder, seen = tmp_path / "environment", []
    folder.mkdir()
    (folder / "evidence.jsonl").write_text("another commit's")
    monkeypatch.setenv(matrix.FILE, str(folder / "matrix.json"))
    monkeypatch.setattr(machine, "identity", lambda: "m")
    monkeypatch.setattr(machine, "fingerprint", dict)

    def measuring(run):
        def write(side, evidence):
            seen.append(evidence)
            Writer(evidence).append(Evidence(CELL, "ok", samples=(0.5,), error=0.1, bound=1.0))
        return write

    monkeypatch.setattr(process, "measuring", measuring)
    benchmark_class().setup_cache()
    assert seen == [folder / "evidence.jsonl"]
    assert measured(benchmark_class, "track_error") == 0.1


def test_commit_without_the_backend_is_null(benchmark_class, monkeypatch, capsys):
    unknown = replace(CELL, backend="tomorrow")
    (one,) = series([unknown]).values()
    monkeypatch.setattr(asv_benchmark, "current",
                        lambda: matrix.Matrix("quick", "cpu", [one], {one.benchmark: [0]}))
    tomorrow = asv_benchmark.classes("attention")[one.name]
    tomorrow().setup_cache()
    assert measured(tomorrow, "track_error") is None
    assert "softmax:tomorrow is not registered" in capsys.readouterr().out


def test_what_measures_a_commit_sets_how_threads_wait_before_torch_is_loaded():
    """Spinning threads took 1.6 times the CPU seconds, and pytest measures with threads that sleep."""
    program = """import os, sys, types
from perf.run import commit
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    commit.measure(types.SimpleNamespace(device="cpu"), None)
except ImportError:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    without = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240,
                          cwd=ROOT, env={**without, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "passive\n"


def test_nothing_measured_fails_the_cache(benchmark_class, monkeypatch):
    monkeypatch.setattr(process, "measuring", lambda run: lambda side, evidence: "ImportError: no attention")
    with pytest.raises(RuntimeError, match="ImportError: no attention"):
        benchmark_class().setup_cache()


def test_a_process_that_dies_costs_the_row_in_flight(monkeypatch, tmp_path):
    cells, evidence = [replace(CELL, batch=batch) for batch in (1, 2, 3, 4)], tmp_path / "evidence.jsonl"
    monkeypatch.setattr(machine, "identity", lambda: "m")
    monkeypatch.setattr(machine, "fingerprint", dict)

    def dies(run, side, evidence, nursery):
        for w in run.workloads:
            if w.batch in (2, 3):
                return "SIGSEGV"
            Writer(evidence).append(Evidence(w, "ok"))
        return None

    monkeypatch.setattr(process, "_process", dies)
    assert process.measuring(Run(tuple(cells), "cpu"))(Side(tmp_path, "a side"), evidence) is None
    rows = {row.workload.batch: row for row in load(evidence)}
    assert {batch: row.outcome for batch, row in rows.items()} == {1: "ok", 2: "failed", 3: "failed", 4: "ok"}
    assert rows[2].reason == "its process ended: SIGSEGV"
