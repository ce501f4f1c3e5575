"""The command that selects one workload: what its options select, the id in it names."""
from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import models
import perf.run.session
from perf.run import options
from perf.run.selection import command
from perf.system.tools import python
from perf.workloads.grids import grid, shapes
from perf.workloads.workload import Workload

pytest_plugins = "pytester"
ROOT = Path(__file__).parents[2]
HEAVY = (perf.run.session, models)  # imported here once: pytester unloads what an inner run imports
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SOFTMAX = Workload("attention", "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
SHAPE = next(w for sweep in shapes("cpu") for w in sweep if w.n == 1)  # a real model that decodes


def words(w: Workload, device: torch.device = CPU) -> list[str]:
    program, module, *rest = shlex.split(command(w, device=device))
    assert (program, module) == (python(), "-m")
    return rest


def test_a_row_of_a_grid_needs_no_more_than_the_grid():
    assert words(SOFTMAX) == ["pytest", f"perf/test_attention.py::test_attention[{SOFTMAX.id}]", "--benchmark-only",
                              "--perf-device=cpu", "--perf-grid=default", "--perf-profile=torch"]
    assert words(replace(SOFTMAX, batch=4))[3:5] == ["--perf-device=cpu", "--perf-grid=full"]
    assert shlex.split(command(SOFTMAX, "ncu", device=CPU))[-1] == "--perf-profile=ncu"


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_every_model_has_its_test(device):
    one = {w.model: w for w in grid("default", device.type)}
    tests = {model: words(w, device)[1].partition("[")[0] for model, w in one.items()}
    assert tests["attention"] == "perf/test_attention.py::test_attention"
    assert tests["distilgpt2"] == "perf/test_gpt2.py::test_gpt2"
    assert tests["vit-s16" if device == CPU else "vit-b16"] == "perf/test_vit.py::test_vit"
    assert tests["tft-160"] == "perf/test_tft.py::test_tft"


@pytest.fixture
def selected(pytester):
    """Gives the workloads that pytest takes its options to mean."""
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    return lambda words: options.settings(pytester.parseconfig(*words)).workloads


@pytest.mark.parametrize(("w", "said"), [
    (SOFTMAX, []),
    (replace(SOFTMAX, batch=4), []),
    (SHAPE, ["--perf-shapes"]),
    (replace(SHAPE, dtype="fp64"), ["--perf-backends=", "--perf-dtypes=fp64", "--perf-shapes"]),
    (replace(SOFTMAX, n=96, m=96, heads=3, kv_heads=1, head_dim=40, dtype="bf16", causal=False, batch=3),
     ["--perf-functions=softmax", "--perf-backends=sdpa", "--perf-seqlens=96", "--perf-batches=3", "--perf-heads=3",
      "--perf-kv-heads=1", "--perf-head-dims=40", "--perf-causal=full", "--perf-dtypes=bf16", "--perf-phases=forward"]),
    (replace(SOFTMAX, phase="backward", n=96, m=96), ["--perf-seqlens=96", "--perf-phases=backward"]),
    (Workload("distilgpt2", "softmax", "eager", "decode", True, 2, 12, 12, 1, 300, 64, "fp32"), ["--perf-seqlens=300"]),
], ids=lambda value: value.id if isinstance(value, Workload) else "")
def test_its_options_select_it(w, said, selected):
    _, item, only, *given, tool = words(w)
    test = item.removesuffix(f"[{w.id}]")
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()
    assert (only, tool) == ("--benchmark-only", "--perf-profile=torch")
    assert given[0] == "--perf-device=cpu"
    assert given[1].startswith("--perf-grid=")
    assert all(any(word.startswith(start) for word in given[2:]) for start in said)
    assert len(given) == 2 or said
    assert [one.id for one in selected(given)].count(w.id) == 1


@pytest.mark.parametrize("field", ["model", "function", "backend"])
def test_a_stranger_s_workload_is_refused(field):
    with pytest.raises(ValueError, match=r"^no options select .*: the package that adds it is not installed here$"):
        command(Workload(**{**asdict(SOFTMAX), field: "nothing"}), device=CPU)


def test_a_workload_that_no_options_give_is_refused():
    with pytest.raises(ValueError, match=r"^no options select distilgpt2-.* on cpu: no sweep of its model is like it$"):
        command(replace(SOFTMAX, model="distilgpt2", heads=3, kv_heads=3), device=CPU)
