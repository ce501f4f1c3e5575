"""Workloads by their ids."""
from __future__ import annotations

import pytest

import models
from perf.__main__ import main
from perf.workloads import ids
from perf.workloads.grids import grid
from perf.workloads.ids import parse, workload
from perf.workloads.workload import BARE_PHASES


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_id_leads_back_to_its_workload(device):
    cells = grid("full", device, with_shapes=True, with_zoo=True)
    assert len(cells) > 1000
    assert [w.id for w in cells if workload(w.id) != w] == []


def test_the_phases_are_those_of_kernels_and_models():
    assert set(ids.PHASES) == {*BARE_PHASES, *models.registry.PHASES}


def test_an_id_of_another_package_has_its_parts():
    """Its function and its model are not registered here."""
    parts = parse("test_attention[own-model-own:sdpa-flash-forward-backward-full-b2-h8-kv4-n5-m6-d64-bf16]")
    assert parts is not None
    assert (parts["what"], parts["backend"], parts["phase"]) == ("own-model-own", "sdpa-flash", "forward-backward")
    assert (parts["m"], parts["dtype"], parts["quantization"]) == ("6", "bf16", None)
    assert parse("softmax") is None


@pytest.mark.parametrize("treatment", ["-compiled", "-bnb-int8", "-ao-int8-dynamic-compiled"])
def test_ids_of_treated_models_are_read_back(treatment):
    name = f"vit-b16-softmax:sdpa-forward-full-b1-h12-kv12-n197-m197-d64-fp32{treatment}"
    assert workload(name).id == name


@pytest.mark.parametrize("said", ["{}", "test_attention[{}]", "perf/test_attention.py::test_attention[{}]"])
def test_an_id_as_pytest_prints_it(said):
    name = "softmax:sdpa-flash-forward-backward-full-b2-h8-kv4-n512-m1024-d64-bf16"
    result = workload(said.format(name))
    assert (result.variant, result.phase, result.kv_heads, result.m) == ("softmax:sdpa-flash", "forward-backward", 4,
                                                                         1024)


@pytest.mark.parametrize(("name", "said"), [
    ("softmax", "unknown benchmark 'softmax'; give the id of a test"),
    ("softmax:sdpa-sideways-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown benchmark"),
    ("softmax:sdqa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown attention variant 'softmax:sdqa'; did you"),
    ("gpt9-softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown attention variant 'gpt9-softmax:sdpa'"),
    ("softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp31", "unknown benchmark"),
    ("vit-b16-softmax:sdpa-forward-full-b1-h12-kv12-n197-m197-d64-fp32-int3", "unknown quantization 'int3'")])
def test_an_unknown_benchmark_is_one_line(name, said):
    with pytest.raises(ValueError, match="unknown") as refusal:
        workload(name)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_impossible_device(capsys):
    assert main(["bisect", "--good", "HEAD~1", "--bad", "HEAD", "--device", "tpu",
                 "softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32"]) == 2
    assert "no device 'tpu' here; choose from cpu" in capsys.readouterr().err
