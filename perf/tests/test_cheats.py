"""No cheat gets a time, whoever measures it, and no registered variant is taken for one."""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention.backends.eager import Eager
from attention.backends.eager import attend as honest
from attention.registry import variant
from attention.testing import reference
from attention.tests.options import fixed
from perf.bench import proof
from perf.bench.prepare import Preparer
from perf.bench.proof import too_fast
from perf.bench.subject import Missing, Subject, Wrong
from perf.bench.values import Values
from perf.compare import worker
from perf.history import figures
from perf.history.process import Run
from perf.measure import clocks, switches
from perf.measure.clocks import clock
from perf.measure.evidence import load
from perf.measure.fitness import Watch
from perf.measure.roofline import Ceilings
from perf.run import commit
from perf.studies.measuring import Study
from perf.tests.cheats import CHEATS, GPU_CHEATS, GRADIENT_CHEATS, MOMENT, STAGES
from perf.tests.cheats.memory import remembered_by_address
from perf.workloads.workload import Workload

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")
CELL = Workload("attention", "softmax", "eager", "forward", True, 2, 4, 4, 256, 256, 32, "fp32")
OF_A_CPU = ("small numbers to zero", "fp32 products in bf16", "probabilities kept by address",
            "deterministic algorithms")
NO_LIMIT = Ceilings(1e15, {"fp32": 1e18})
VIT = Workload("vit-tiny", "softmax", "sdpa", "forward", False, 2, 4, 4, 17, 17, 16, "fp32")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets back what a cheat switches."""
    before = switches.positions()
    monkeypatch.setattr(MOMENT, "stages", STAGES[1:])
    yield
    switches.restore(before)


def measured(w: Workload, device: torch.device = DEVICE, ceilings: Ceilings = NO_LIMIT, **options: Any) -> None:
    """Takes a workload the whole way, as a pytest run does."""
    MOMENT.stage = "check"
    subject = Subject(Preparer(device), w, **options)
    subject.check()
    ticking = clock(device)
    MOMENT.stage = "plan"
    plan = subject.plan(ticking)
    MOMENT.stage = "timing"
    samples, _ = subject.sample(ticking, plan, Watch(device), 0.05)
    MOMENT.stage = "proof"
    subject.prove(plan, samples.median, ceilings)


def swap(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setattr(Eager, "attend", lambda self: make())


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = CHEATS[name]
    swap(monkeypatch, make)
    with pytest.raises(Wrong, match=words) as refused:
        measured(CELL, CPU)
    assert str(refused.value).startswith("softmax:eager")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "stages"), [
    *itertools.product(["zeros once timed", "the first result once timed", "a smaller batch once timed",
                        "lazily right"], [("timing", "proof"), ("timing",)]),
    ("a host thread", ("timing", "proof"))])  # in the rounds alone it is seen where it is later than the look at it
def test_a_cheat_that_begins_in_the_rounds_is_refused(name: str, stages: tuple[str, ...],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a round itself shows what cheats in the rounds alone."""
    swap(monkeypatch, CHEATS[name][0])
    monkeypatch.setattr(MOMENT, "stages", stages)
    with pytest.raises(Wrong, match=f"when it was timed|{CHEATS[name][1]}"):
        measured(CELL, CPU)


@pytest.mark.parametrize("name", GRADIENT_CHEATS)
def test_a_cheat_with_gradients_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = GRADIENT_CHEATS[name]
    swap(monkeypatch, make)
    with pytest.raises(Wrong, match=words):
        measured(replace(CELL, phase="forward-backward"), CPU)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="a GPU's streams and graphs")
@pytest.mark.parametrize("name", [*GPU_CHEATS, *CHEATS])
def test_a_cheat_on_a_gpu_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = (GPU_CHEATS | CHEATS)[name]
    if name in OF_A_CPU:
        pytest.skip("made for a CPU")
    swap(monkeypatch, make)
    with pytest.raises(Wrong, match=words if name in GPU_CHEATS else None):
        measured(replace(CELL, n=4096, m=4096))


def test_a_busy_machine_hides_no_cheat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside six busy processes on two cores, calls of 2 ms took 38 to 107 ms of the wall clock."""
    monkeypatch.setattr(clocks, "_warm_up", lambda *_: 2 * proof.LONG)
    make, words = CHEATS["remembered by a few values"]
    swap(monkeypatch, make)
    with pytest.raises(Wrong, match=words):
        measured(CELL, CPU)


@pytest.mark.parametrize("phase", ["backward", "forward"])
def test_a_cheat_is_seen_in_long_calls(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is tried but once, and not timed on values that it knows."""
    monkeypatch.setattr(proof, "SHORT", 0.0)
    make, words = GRADIENT_CHEATS["gradients remembered"] if phase != "forward" else CHEATS["half of the rows stale"]
    w = replace(CELL, phase=phase)
    measured(w, CPU)
    swap(monkeypatch, make)
    with pytest.raises(Wrong, match=words):
        measured(w, CPU)


@pytest.mark.parametrize("w", [VIT, replace(VIT, phase="train-step"),
                               Workload("gpt2-tiny", "softmax", "sdpa", "decode", True, 2, 4, 4, 1, 17, 16, "fp32")],
                         ids=["forward", "train-step", "decode"])
def test_a_model_that_remembers_is_refused(w: Workload) -> None:
    def remembering(call: Any) -> Any:
        results: list[Any] = []

        def remembered() -> Any:
            if not results or torch.autograd._profiler_enabled():
                results.append(call())
            return results[0]

        return remembered

    measured(w, CPU)
    with pytest.raises(Wrong, match=r"gave another result when it was timed|as it was before"):
        measured(w, CPU, around=remembering)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_few_numbers_do_not_tell_the_others(dtype: torch.dtype) -> None:
    """A cheat that remembers by three numbers of each tensor meets known ones at most once in a hundred rounds."""
    values = Values([torch.randn(1, 2, 64, 32).to(dtype) for _ in range(3)])
    known = set()
    for _ in range(2000):
        values.renew()
        known.add(tuple(x.flatten()[:3].sum().item() for x in values.tensors))
    assert len(known) >= 1980


def test_a_time_that_nothing_can_take_is_a_sentence() -> None:
    limits = Ceilings(1e10, {"bf16": 1e11, "fp32": 4e11})
    flops = CELL.flops or 0
    assert too_fast(flops / 7e11, CELL, limits) is None  # beyond bf16's limit, and fp32's, but not by much
    assert "but its FLOPs take" in (too_fast(flops / 9e11, CELL, limits) or "")
    assert too_fast(flops / 9e11, replace(CELL, function="alibi"), limits) is None  # it may skip far keys
    assert "no time at all" in (too_fast(0.0, CELL, limits) or "")
    assert too_fast(1e-9, Workload("tft-tiny", "softmax", "sdpa", "forward", True, 2, 4, 4, 4, 16, 4, "fp32"),
                    Ceilings(1e10, {})) is None


def test_a_function_that_is_not_linear_in_v_is_no_cheat(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = reference.oracle
    monkeypatch.setattr(reference, "oracle", lambda name, q, k, v, **told: exact(name, q, k, v.abs(), **told))
    swap(monkeypatch, lambda: lambda q, k, v, **told: honest(q, k, v.abs(), **told))
    measured(CELL, CPU)


def test_a_comparison_refuses_a_cheat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(worker.STATE, str(tmp_path))
    swap(monkeypatch, remembered_by_address)
    made = worker.Worker(CPU)
    requests: list[dict[str, Any]] = [{"prepare": asdict(CELL), "check": True}, {"plan": None}, {"rounds": 2}]
    assert all("wrong" not in made.answer(request) for request in requests)
    assert "gave another result when it was timed" in made.answer({"state": True})["wrong"]


def test_asv_and_a_backfill_refuse_a_cheat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    swap(monkeypatch, remembered_by_address)
    commit.measure(Run((CELL,), "cpu"), tmp_path / "evidence.jsonl")
    (row,) = load(tmp_path / "evidence.jsonl")
    assert "gave another result when it was timed" in (figures.of(row).wrong or "")


def test_a_study_refuses_a_cheat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    swap(monkeypatch, remembered_by_address)
    with pytest.raises(Wrong, match="gave another result when it was timed"):
        Study(CPU, tmp_path / "out.jsonl").timed(CELL)


@pytest.mark.parametrize("phase", [
    "forward", *(pytest.param(phase, marks=pytest.mark.slow) for phase in ("forward-backward", "backward"))])
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if variant(name).backend.compiled else ())
    for name in attention.names(device=DEVICE.type)])
def test_no_registered_variant_is_refused(name: str, phase: str) -> None:
    function, _, backend = name.partition(":")
    if fixed(function):
        pytest.skip("at so few keys it needs options, which no workload has")
    described = attention.registry.function(function)
    n = described.queries or 128
    w = replace(CELL, function=function, backend=backend, phase=phase, n=n, m=128, causal=described.causal, head_dim=64,
                dtype="fp32" if DEVICE.type == "cpu" else "bf16")
    try:
        measured(w)
    except Missing as reason:
        pytest.skip(str(reason))
