"""Takes a workload to something that can be called, checked and timed."""
from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from perf.bench import kernels, prepare
from perf.bench import models as prepare_models
from perf.bench.prepare import Preparer
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
KERNEL = Workload("attention", "softmax", "sdpa", "forward", True, 2, 4, 2, 32, 48, 16, "fp32")
PHASES = {"forward": torch.Tensor, "backward": tuple, "forward-backward": tuple}
MODELS = {
    "prefill": Workload("gpt2-tiny", "softmax", "sdpa", "prefill", True, 2, 4, 4, 16, 16, 16, "fp32"),
    "decode": Workload("gpt2-tiny", "softmax", "sdpa", "decode", True, 2, 4, 4, 1, 17, 16, "fp32"),
    "train-step": Workload("gpt2-tiny", "softmax", "tiled", "train-step", True, 2, 4, 4, 16, 16, 16, "fp32"),
    "alibi": Workload("gpt2-tiny", "alibi", "sdpa", "prefill", True, 2, 4, 4, 16, 16, 16, "fp32"),
    "vit": Workload("vit-tiny", "softmax", "sdpa", "forward", False, 2, 4, 4, 17, 17, 16, "fp32"),
    "tft": Workload("tft-tiny", "softmax", "sdpa", "forward", True, 2, 4, 4, 4, 16, 4, "fp32"),
    "tft-train": Workload("tft-tiny", "softmax", "sdpa", "train-step", True, 2, 4, 4, 4, 16, 4, "fp32"),
}


@pytest.mark.parametrize(("phase", "kind"), PHASES.items())
def test_a_kernel_is_right_and_can_be_called_again(phase, kind):
    w = replace(KERNEL, phase=phase)
    preparer = Preparer(CPU)
    assert preparer.why_not(w) is None
    prepared = preparer.prepare(w)
    report = prepared.check()
    assert report.ok, report.message
    assert {x.split()[0] for x in report.errors} == ({"out"} if phase == "forward" else {"out", "dq", "dk", "dv"})
    first, again = prepared.call(), prepared.call()
    assert isinstance(first, kind)
    torch.testing.assert_close(first, again)


def test_cells_of_one_shape_share_the_reference(monkeypatch):
    made: list[kernels.Reference] = []

    class Counted(kernels.Reference):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(kernels, "Reference", Counted)
    preparer = Preparer(CPU)
    for backend in ("eager", "sdpa", "tiled"):
        for phase in PHASES:
            preparer.prepare(replace(KERNEL, backend=backend, phase=phase)).check()
    assert len(made) == 1
    preparer.prepare(replace(KERNEL, n=16))
    assert len(made) == 2


def test_the_shape_before_is_freed_whatever_was_imported_meanwhile():
    """Also where it stands in a reference cycle, and the garbage collector was told to skip what there was."""
    preparer = Preparer(CPU)
    for n in (16, 24, 32):
        preparer.prepare(replace(KERNEL, n=n))
        shared = cast(Any, preparer._shared)
        shared.itself = shared
        gone = weakref.ref(shared)
        del shared
        preparer._imported = 0  # as if modules had come
        preparer.prepare(replace(KERNEL, n=n + 1))
        assert gone() is None


def test_one_check_serves_both_gradient_phases():
    preparer = Preparer(CPU)
    reports = [preparer.prepare(replace(KERNEL, phase=phase)).check() for phase in PHASES]
    assert reports[1] is reports[2] is not reports[0]


def test_what_does_not_fit_is_told_before_allocating():
    huge = replace(KERNEL, backend="eager", n=2 ** 20, m=2 ** 20)
    assert "does not fit: needs" in (Preparer(CPU).why_not(huge) or "")


def test_what_a_backend_lacks_is_told():
    assert (Preparer(CPU).why_not(replace(KERNEL, backend="fa2")) or "").startswith("softmax:fa2: ")


def test_kv_heads_that_do_not_divide_are_told():
    with pytest.raises(ValueError, match="heads=4 must be a multiple of kv_heads=3"):
        Preparer(CPU).prepare(replace(KERNEL, kv_heads=3))


@pytest.mark.parametrize("w", MODELS.values(), ids=MODELS)
def test_a_model_is_right_and_can_be_called_again(w):
    preparer = Preparer(CPU)
    assert preparer.why_not(w) is None
    prepared = preparer.prepare(w)
    report = prepared.check()
    assert report.ok, report.message
    named = {name for name in report.errors if " of layer " not in name and not name.startswith("gradients of ")}
    assert named == {"loss" if w.phase == "train-step" else "logits", "missing layers"}
    assert any(name.startswith("out of layer ") for name in report.errors)
    assert any(name.startswith("gradients of q") for name in report.errors) == (w.phase == "train-step")
    prepared = preparer.prepare(w)
    prepared.call()
    prepared.call()
    assert preparer.prepare(w).check().errors == report.errors


def test_a_model_that_differs_from_its_reference_is_wrong():
    preparer = Preparer(CPU)
    w = MODELS["prefill"]
    assert preparer.prepare(w).check().ok
    model = prepare_models._build(w.model, w.function, torch.float32, CPU)
    with torch.no_grad():
        model.get_parameter("transformer.h.0.attn.c_proj.weight").mul_(1.01)
    assert not preparer.prepare(w).check().ok
    prepare_models._build.cache_clear()


def test_more_tokens_than_positions_is_one_line():
    with pytest.raises(ValueError, match="gpt2-tiny has 64 positions, not 128"):
        Preparer(CPU).prepare(replace(MODELS["prefill"], n=128, m=128))


def test_memory_of_a_model_grows_with_its_batch():
    w = MODELS["prefill"]
    assert prepare.predict_bytes(replace(w, batch=64), "cpu") > prepare.predict_bytes(w, "cpu") > 0
