"""Holds a worker to its protocol, in this process and in one of its own."""
from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attention.testing import Report
from perf.bench import subject
from perf.bench.contract import Prepared
from perf.bench.prepare import Preparer
from perf.compare import inject, worker
from perf.compare.side import INJECT, Side
from perf.measure.clocks import TELLS_WAITS, CoreTimer, Moment
from perf.workloads.workload import BARE, Workload

pytestmark = pytest.mark.slow  # starts processes that import torch

ROOT = Path(__file__).parents[2]
SMALL = Workload(BARE, "softmax", "eager", "forward", True, 1, 2, 2, 32, 32, 8, "fp32")
CHECKED = {"prepare": asdict(SMALL), "check": True}
UNCHECKED = {"prepare": asdict(SMALL), "check": False}
PLAN: dict[str, Any] = {"plan": None}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what a worker changes, which has its process for itself."""
    threads, cores = torch.get_num_threads(), worker._cores()
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(INJECT, raising=False)
    yield
    gc.enable()
    torch.set_num_threads(threads)
    worker._stay_on(cores)


def answers(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    told = io.StringIO()
    worker.serve("cpu", io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), told)
    return [json.loads(line) for line in told.getvalue().splitlines()]


def test_a_compiled_model_s_seconds_are_cold_each_time() -> None:
    vit = Workload("vit-tiny", "softmax", "sdpa", "forward", False, 1, 4, 4, 17, 17, 16, "fp32", compiled=True)
    request = {"prepare": asdict(vit), "check": True}
    first, again = answers(request, {"prepare": asdict(SMALL), "check": True}, request)[::2]
    assert min(first["compile_seconds"], again["compile_seconds"]) > 1
    assert first["counters"]["compiled_regions"] == again["counters"]["compiled_regions"] == 1
    (unchecked,) = answers({**request, "check": False})
    assert unchecked == {"ready": True}


def test_a_workload_is_checked_counted_and_timed() -> None:
    ready, plan, rounds, state = answers(CHECKED, PLAN, {"rounds": 5}, {"state": True})
    assert ready["ready"] is True
    assert 0 < ready["error"] <= ready["bound"]
    assert ready["peak_bytes"] > 0
    assert ready["counters"]["operators"] == sum(ready["kernels"].values()) > 0
    assert ready["counters"]["flops"] == SMALL.flops
    assert plan["seconds"] > 0
    assert plan["clock"].endswith("1 threads")
    assert len(rounds["seconds"]) == 5
    assert 0 < min(rounds["seconds"]) < plan["seconds"] / plan["iterations"] * 100
    assert state["unfit"] is None
    assert not {name.partition(".")[0] for name in state["imports"]} & {"attention", "models", "perf"}
    assert state["state"]["foreign_cores"] == 0  # the sibling's work is no company


def test_two_processes_count_the_same() -> None:
    """Counts that are compared exactly carry no noise, not from a first preparation to a second."""
    first, second = answers(CHECKED, CHECKED)
    for answer in (first, second):
        assert answer.pop("kernel_seconds")  # which are no counts
    assert first == second


def test_without_a_check_nothing_is_counted() -> None:
    assert answers(UNCHECKED) == [{"ready": True}]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"backend": "nowhere"}, "softmax:nowhere is not registered"),
    ({"backend": "fa2"}, "softmax:fa2: "),
    ({"model": "no-model"}, "no-model"),
    ({"n": 2 ** 24, "m": 2 ** 24}, "does not fit"),
])
def test_what_can_not_be_done_here_is_missing_in_one_line(changes: dict[str, Any], reason: str) -> None:
    answer, = answers({"prepare": asdict(replace(SMALL, **changes)), "check": True})
    text = answer["missing"] if "missing" in answer else answer["failed"]
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize(("error", "word"), [
    (ValueError("unknown option 'window'"), "missing"), (ImportError("no flash_attn"), "missing"),
    (TypeError("create() got an unexpected keyword argument 'dtype'\nmore"), "failed"),
    (AttributeError("'Attention' object has no attribute 'kept_bytes'"), "failed"),
])
def test_what_preparing_raises(monkeypatch: pytest.MonkeyPatch, error: Exception, word: str) -> None:
    def refuse(self: Preparer, w: Workload) -> Prepared:
        raise error

    monkeypatch.setattr(Preparer, "prepare", refuse)
    answer, = answers(CHECKED)
    assert list(answer) == [word]
    assert str(error).splitlines()[0] in answer[word]
    assert "\n" not in answer[word]


def test_one_that_failed_leaves_the_others_alone() -> None:
    failed, ready = answers({"prepare": {"model": BARE}, "check": True}, UNCHECKED)
    assert "TypeError" in failed["failed"]
    assert ready == {"ready": True}


def test_a_result_that_the_oracle_contradicts_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Preparer.prepare
    report = Report("softmax:eager", {"out": 0.5}, {"out": 0.1})
    monkeypatch.setattr(Preparer, "prepare", lambda self, w: replace(prepare(self, w), check=lambda: report))
    answer, = answers(CHECKED)
    assert answer == {"wrong": report.message}


def test_another_kernel_than_declared_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "wrong_kernel", lambda names, w, device: f"{w.variant} ran {len(names)} others")
    answer, = answers(CHECKED)
    assert answer["wrong"].startswith("softmax:eager ran")


def test_a_fault_is_put_into_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def wrap(call: Any, spec: str) -> Any:
        def faulty() -> Any:
            called.append(spec)
            return call()

        return faulty

    monkeypatch.setattr(inject, "wrap", wrap)
    answers(UNCHECKED)
    assert not called
    monkeypatch.setenv(INJECT, "clone")
    answers(UNCHECKED)
    assert called == ["clone"]


def test_a_plan_holds_to_one_core_and_preparing_lets_go() -> None:
    cores = worker._cores()
    core = max(cores, default=None)
    if core is None:
        pytest.skip("processes can't be held to a core here")
    answers(UNCHECKED, {"plan": core})
    assert os.sched_getaffinity(0) == {core}
    worker._stay_on(cores)


def test_another_installed_package_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    answer, = answers(CHECKED)
    assert "holds no package to measure" in answer["failed"]
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention/__init__.py").touch()
    answer, = answers(CHECKED)
    assert "attention/ is that of" in answer["failed"]


def test_memory_that_lacks_is_told_at_any_time_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(RuntimeError):
        """Stands in place of torch's error, which only its allocator can make."""

    def lacks(*_: Any) -> None:
        raise Short("no room")

    monkeypatch.setattr(torch, "OutOfMemoryError", Short)
    made = worker.Worker(torch.device("cpu"))
    assert made.answer(CHECKED)["ready"] is True
    assert made.subject is not None
    held = weakref.ref(made.subject.call)
    monkeypatch.setattr(made.clock, "prepare", lambda *_, **settings: lacks())
    assert made.answer(PLAN) == {"missing": "softmax:eager: does not fit: no room"}
    assert made.answer({"release": True}) == {}
    assert held() is None


def test_quit_ends_it() -> None:
    assert answers({"quit": True}, CHECKED) == []


def test_a_round_that_is_short_is_not_the_first_after_the_other_side() -> None:
    def times(seconds: float) -> int:
        calls: list[int] = []
        plan: Any = SimpleNamespace(setup=None, iterations=3, seconds=seconds, call=lambda: calls.append(1))
        watch: Any = SimpleNamespace(sample=lambda: None)
        assert len(worker.rounds(CoreTimer(), plan, 4, watch, long=0.05)) == 4
        return len(calls)

    assert times(0.02) == 15
    assert times(0.1) == 12


def test_time_that_others_had_the_core_is_none_of_the_call() -> None:
    start = Moment(10.0, 5.0, 3)
    assert Moment(11.0, 5.75, 3) - start == 0.75
    assert Moment(11.0, 5.75, 4) - start == 1.0  # it waited
    assert Moment(11.0, 7.0, 3) - start == 1.0  # by several threads at once


@pytest.mark.skipif(not TELLS_WAITS, reason="Linux tells how often a thread waited")
def test_waiting_is_told_by_the_wall_clock() -> None:
    import time

    timer = CoreTimer()
    start = timer()
    time.sleep(0.02)
    assert timer() - start >= 0.02


def test_what_is_printed_is_no_answer(tmp_path: Path) -> None:
    """Python prints, and code below it; and a revision without today's interface fails in one line."""
    (tmp_path / "perf").symlink_to(ROOT / "perf")
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "__init__.py").write_text(
        "import os\nprint('a word')\nos.write(1, b'another')\nos.system('echo a third')\n")
    done = subprocess.run([sys.executable, "-m", "perf.compare.worker", "cpu", "json"], cwd=tmp_path,
                          env=Side(tmp_path, "a side").variables(), input=f"{json.dumps(CHECKED)}\n",
                          capture_output=True, text=True, check=False, timeout=100)
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["failed"].startswith("ModuleNotFoundError: No module named 'attention.")
    assert {"a word", "another", "a third"} <= set(done.stderr.replace("another", "another\n").split("\n"))
    assert done.returncode == 0
