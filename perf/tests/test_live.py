"""What commands compare: benchmarks by their ids, on devices that are here."""
from __future__ import annotations

import pytest

from perf.__main__ import main
from perf.compare.live import workload
from perf.workloads.grids import grid


def test_ids_are_read_back():
    cells = [*grid("default", "cpu", with_shapes=True), *grid("default", "cuda", with_zoo=True)]
    assert len(cells) > 300
    assert all(workload(w.id) == w for w in cells)


@pytest.mark.parametrize("treatment", ["-compiled", "-bnb-int8", "-ao-int8-dynamic-compiled"])
def test_ids_of_treated_models_are_read_back(treatment):
    name = f"vit-b16-softmax:sdpa-forward-full-b1-h12-kv12-n197-m197-d64-fp32{treatment}"
    assert workload(name).id == name


@pytest.mark.parametrize("said", ["{}", "test_attention[{}]", "perf/test_attention.py::test_attention[{}]"])
def test_an_id_as_pytest_prints_it(said):
    name = "softmax:sdpa-flash-forward-backward-full-b2-h8-kv4-n512-m1024-d64-bf16"
    found = workload(said.format(name))
    assert (found.variant, found.phase, found.kv_heads, found.m) == ("softmax:sdpa-flash", "forward-backward", 4,
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
