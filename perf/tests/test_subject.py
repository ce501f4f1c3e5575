"""The one measuring path: what it raises, and that each of its callers refuses a fallback, `asv run` first."""
from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attention import registry
from attention.backends import sdpa
from attention.backends.eager import eager
from attention.testing import Report
from perf.bench import subject
from perf.bench.prepare import Preparer
from perf.bench.subject import Missing, Subject, Wrong
from perf.compare import worker
from perf.history import asv_benchmark, figures, matrix, process
from perf.history.process import Run
from perf.history.series import series
from perf.measure.evidence import load
from perf.run import commit, session
from perf.run.options import Settings
from perf.run.replay import Script
from perf.studies import gpt2_rows, vit_rows
from perf.studies.measuring import Study
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
FLASH = Workload("attention", "softmax", "sdpa-flash", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")
EAGER = replace(FLASH, backend="eager")
REFUSED = r"softmax:\S+ \(forward\) ran .*; expected"


@pytest.fixture(params=[FLASH, EAGER], ids=["eager in a fused kernel's place", "a fused kernel in eager's place"])
def swapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """Gives a workload whose backend computes the right thing by another backend's kernel."""
    w = request.param
    other = eager.attend() if w is FLASH else sdpa.flash.attend()
    monkeypatch.setattr(type(registry.variant(w.variant).backend), "attend", lambda self: other)
    return w


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(CPU, tmp_path / "out.jsonl")


def test_asv_refuses_a_fallback(swapped: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from asv_runner.benchmarks.time import TimeBenchmark
    from asv_runner.benchmarks.track import TrackBenchmark

    (one,) = series([swapped]).values()
    small = matrix.Matrix("quick", "cpu", [one], {one.benchmark: [0]})
    monkeypatch.setattr(asv_benchmark, "current", lambda: small)
    monkeypatch.setattr(process, "measuring", lambda run: lambda side, evidence: commit.measure(run, evidence))
    monkeypatch.chdir(tmp_path)
    instance = asv_benchmark.classes("attention")[one.name]()

    instance.setup_cache()

    def run(kind: Any, figure: str) -> None:
        benchmark = kind(figure, getattr(instance, figure), [getattr(instance, figure), instance])
        benchmark.set_param_idx(0)
        benchmark.do_setup()
        benchmark.do_run()

    for kind, figure in ((TimeBenchmark, "time_call"), (TrackBenchmark, "track_peak_bytes")):
        with pytest.raises(RuntimeError, match=REFUSED):
            run(kind, figure)


@pytest.mark.slow
def test_a_pytest_run_refuses_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text() + """
from attention.backends import sdpa
from attention.backends.eager import eager
type(sdpa.flash).attend = lambda self: eager.attend()
""")
    (tmp_path / "test_it.py").write_text("import pytest\n\n\n@pytest.mark.workloads('attention')\n"
                                         "def test_it(measure):\n    measure()\n")
    environment = {**worker.os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark would take this run for xdist's
    ran = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--benchmark-only",
                          "--perf-device=cpu", "--perf-functions=softmax", "--perf-backends=sdpa-flash",
                          "--perf-phases=forward", "--perf-causal=causal", "--perf-heads=2", "--perf-seqlens=64"],
                         cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert "softmax:sdpa-flash (forward) ran " in ran.stdout
    (row,) = [json.loads(line) for line in (tmp_path / ".perf" / "evidence.jsonl").read_text().splitlines()[1:]]
    assert row["outcome"] == "wrong"
    assert not row["samples"]


def test_a_comparison_refuses_a_fallback(swapped: Workload) -> None:
    answer = worker.Worker(CPU).answer({"prepare": asdict(swapped), "check": True})
    assert list(answer) == ["wrong"]
    assert "ran" in answer["wrong"]


def test_a_study_refuses_a_fallback(swapped: Workload, study: Study) -> None:
    with pytest.raises(Wrong, match=REFUSED):
        study.timed(swapped)


def test_rows_that_studies_build_themselves_refuse_a_fallback() -> None:
    import models
    from perf.studies.calls import confirm

    tiny = models.get("gpt2-tiny")
    model = gpt2_rows.build(tiny, gpt2_rows.ROWS[0], torch.float32, CPU)
    call = torch.no_grad()(lambda: model(input_ids=torch.arange(16)[None]))
    w = gpt2_rows.workload(tiny, "softmax:eager", "prefill", 1, 16, torch.float32)
    confirm(call, w, CPU)
    with pytest.raises(ValueError, match="expected"):
        confirm(call, replace(w, backend="sdpa"), CPU)

    vit = models.get("vit-tiny")
    plain = models.create(vit, attention="softmax:eager")
    images = torch.randn(2, 3, vit.sizes["image"], vit.sizes["image"])
    flash = vit_rows.Treatment("fp32", ("sdpa-flash",))
    vit_rows.check(vit_rows.treated(plain, flash, vit), flash, plain, vit, images)
    with pytest.raises(ValueError, match="expected"):
        vit_rows.check(plain, flash, plain, vit, images)


def test_the_worst_error_is_one_rule() -> None:
    def worst(**errors: tuple[float, float]) -> tuple[float, float]:
        return subject.worst(Report("x", {x: error for x, (error, _) in errors.items()},
                                    {x: bound for x, (_, bound) in errors.items()}))

    assert worst(out=(0.5, 1.0), dq=(0.2, 0.1)) == (0.2, 0.1)
    assert worst(out=(0.0, 0.0), dq=(0.1, 0.2)) == (0.1, 0.2)
    assert worst(out=(1e-9, 0.0), dq=(9.0, 1.0)) == (1e-9, 0.0)
    error, bound = worst(out=(9.0, 1.0), dq=(math.nan, 2.0))
    assert math.isnan(error)
    assert bound == 2.0


def test_facts_are_those_of_the_call() -> None:
    facts = Subject(Preparer(CPU), EAGER).check()
    assert 0 < (facts.error or 0) <= (facts.bound or 0)
    assert facts.counters["operators"] == sum(facts.kernels.values()) > 0
    assert (facts.peak_bytes or 0) >= 2 * 64 * 16 * 4


def test_what_can_not_be_measured_is_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Missing, match=r"^softmax:fa2: "):
        Subject(Preparer(CPU), replace(EAGER, backend="fa2"))

    class Short(RuntimeError):
        """Stands for torch's, which only its allocator can make."""

    def lacks(call: Any) -> Any:
        raise Short("no room")

    monkeypatch.setattr(torch, "OutOfMemoryError", Short)
    with pytest.raises(Missing, match=r"^softmax:eager: does not fit: no room$"):
        Subject(Preparer(CPU), EAGER, around=lacks)


def test_a_wrong_result_keeps_its_error_and_why_it_was_allowed_much(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Subject(Preparer(CPU), EAGER)
    report = Report("softmax:eager", {"out": 0.5}, {"out": 0.1}, reasons={"out": "its rows are small"})
    made.prepared = replace(made.prepared, check=lambda: report)
    with pytest.raises(Wrong, match="numerically wrong") as wrong:
        made.check()
    assert (wrong.value.facts.error, wrong.value.facts.bound) == (0.5, 0.1)
    assert wrong.value.facts.loose == {"out": "its rows are small"}
    assert wrong.value.facts.peak_bytes is None


def test_asv_keeps_the_error_of_what_it_refuses(swapped: Workload, tmp_path: Path) -> None:
    commit.measure(Run((swapped,), "cpu"), tmp_path / "evidence.jsonl")
    (row,) = load(tmp_path / "evidence.jsonl")
    found = figures.of(row)
    assert 0 < (found.error or 0) <= 1
    assert "expected" in (found.wrong or "")


@pytest.mark.parametrize(("grid", "axes", "measured"), [
    ("default", {}, False), ("full", {}, True), ("default", {"backend": ["sdpa-flash"]}, True)])
def test_a_row_of_long_calls_is_left_to_the_full_grid_and_to_who_names_it(tmp_path, monkeypatch, grid, axes, measured):
    monkeypatch.setattr(session, "LONGEST", -1.0)
    calls: list[Any] = []
    benchmark: Any = SimpleNamespace(enabled=False, pedantic=calls.append)
    run = session.Session(Settings(CPU, grid, [FLASH], tmp_path / "evidence.jsonl", axes=axes), Script())
    if measured:
        run.measure(FLASH, benchmark)
    else:
        with pytest.raises(pytest.skip.Exception, match="one call takes 0 s; --perf-grid full measures it"):
            run.measure(FLASH, benchmark)
    assert len(calls) == measured
    assert [row.outcome for row in run.rows] == ([] if measured else ["skipped"])
