"""The studies run, whatever fails in them, and say where the time goes."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perf.policy.budgets import budget
from perf.studies import quantisation_errors, quantised_goals
from perf.studies.measuring import Study
from perf.studies.where_time_goes import Where, where
from perf.workloads.grids import quantizations

CPU = torch.device("cpu")


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path):
    study = Study(CPU, tmp_path / "deep" / "out.jsonl")
    with study.part("first"):
        raise RuntimeError("no kernel\nat all")
    with study.part("second"):
        study.write("found", {"x": 1})
    machine, failed, found = records(study.out)
    assert machine["kind"] == "machine"
    assert (failed["part"], failed["reason"]) == ("first", "first: RuntimeError: no kernel")
    assert found["x"] == 1
    assert study.failures == ["first: RuntimeError: no kernel"]


def test_a_compilers_error_keeps_its_reason(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl")
    with study.part("compiled"):
        raise RuntimeError("backend='inductor' raised:\nAssertionError: no kernel\n\nSet TORCHDYNAMO_VERBOSE=1")
    assert study.failures == ["compiled: RuntimeError: backend='inductor' raised: AssertionError: no kernel"]
    with study.part("kernel"):
        raise RuntimeError("at 251:27:\n    x = tl.dot(a, b)\n        ^\nthe dtypes differ")
    assert study.failures[1:] == ["kernel: RuntimeError: at 251:27: the dtypes differ"]


def test_past_its_time_nothing_is_begun(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl", seconds=-1)
    with study.part("late"):
        study.timed(quantised_goals.image("vit-tiny", 1, "fp32"))
    assert [said.partition(": not begun")[0] for said in study.failures] == ["late: TimeoutError"]
    assert study.known == {}


def test_where_the_time_of_a_call_goes():
    x = torch.randn(1536, 1536)  # a product that outlasts whatever a busy machine does
    found = where(lambda: (x @ x).relu(), CPU)
    assert max(found.kernels, key=lambda name: found.kernels[name]) == "aten::mm"
    assert {"aten::matmul", "aten::relu"} <= set(found.kernels)
    assert found.launches >= 3
    assert found.busy == pytest.approx(sum(found.kernels.values()))
    told = Where(wall=2e-3, busy=1e-3, launches=4, syncs=1, kernels={"a": 7.5e-4, "b": 2.5e-4}).text("x")
    assert told == ("x: 2.00 ms a call, the device busy for 1.00 (50%) with 4 kernels, 1 waits of the host: the device "
                    "waits for the host. Its kernels by time: a 75%, b 25%.")
    assert not Where(1.0, 0.9, 1, 0, {}).host_bound


def test_the_goals_run_on_tiny_models(tmp_path, capsys):
    out = tmp_path / "goals.jsonl"
    assert quantised_goals.main(["--out", str(out), "--tiny", "--device", "cpu", "--part", "where"]) == 0
    found = [record for record in records(out) if record["kind"] == "where"]
    assert [(record["method"], record["batch"]) for record in found] == [
        (method, batch) for batch in (1, 4) for method in ("none", "bnb-int8", "bnb-nf4")]
    assert "vit-tiny, batch 4, bnb-nf4: " in capsys.readouterr().out


@pytest.mark.slow
def test_every_goal_is_claimed_beside_its_measurement(tmp_path, capsys):
    out = tmp_path / "goals.jsonl"
    quantised_goals.main(["--out", str(out), "--tiny", "--device", "cpu", "--folds", "2", "--fold-seconds", "2"])
    claims = [record["claim"] for record in records(out) if record["kind"] == "claim"]
    assert sum("compile + CUDA graph" in claim for claim in claims) == 3
    assert sum("on the blocks of" in claim for claim in claims) == 4
    assert sum("slowdown" in claim for claim in claims) == 2
    assert sum("fastest quantised" in claim or "of its size" in claim or "quality" in claim for claim in claims) == 3
    failed = {record["part"] for record in records(out) if record["kind"] == "failed"}
    assert failed == {"ao-fp8-dynamic compiled"}  # which a CPU can't
    told = capsys.readouterr().out
    assert all(claim in told for claim in claims)


def test_errors_are_measured_of_each_method(capsys):
    quantisation_errors.main(["--device", "cpu", "--models", "vit-tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(quantizations())
    (nf4,) = [line.split() for line in lines if line.startswith("vit-tiny    fp32  bnb-nf4 ")]
    assert 0.05 < float(nf4[5]) < budget("bnb-nf4").layer
    assert any(line.endswith("ao-fp8-dynamic runs on cuda, not on cpu") for line in lines)
