"""Quantised and compiled models: held to budgets, and a broken quantisation gets no time."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import attention
from models import quantization
from perf.bench import models as prepare_models
from perf.bench import treatments
from perf.bench.prepare import Preparer
from perf.policy.budgets import budget, budgets
from perf.workloads import grids as workloads
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
VIT = Workload("vit-tiny", "softmax", "sdpa", "forward", False, 2, 4, 4, 17, 17, 16, "fp32")
MODELS = {
    "vit": VIT,
    "prefill": Workload("gpt2-tiny", "softmax", "sdpa", "prefill", True, 2, 4, 4, 16, 16, 16, "fp32"),
    "decode": Workload("gpt2-tiny", "softmax", "sdpa", "decode", True, 2, 4, 4, 1, 17, 16, "fp32"),
    "tft": Workload("tft-tiny", "softmax", "sdpa", "forward", True, 2, 4, 4, 4, 16, 4, "fp32"),
}
HERE = [method for method in workloads.quantizations()
        if treatments.why_not(replace(VIT, quantization=method), CPU) is None]


CASES = [pytest.param(w, method, id=f"{name}-{method}",
                      marks=[] if name == "vit" or method in ("bnb-nf4", "ptq-int8") else [pytest.mark.slow])
         for name, w in MODELS.items() for method in HERE]


@pytest.mark.parametrize(("w", "method"), CASES)
def test_a_quantised_model_keeps_its_budgets(w, method):
    w = replace(w, quantization=method)
    prepared = Preparer(CPU).prepare(w)
    report = prepared.check()
    assert report.ok, report.message
    layer = next(name for name in report.errors if name.startswith("layer "))
    assert report.bounds == {"logits": budget(method).logits, layer: budget(method).layer}
    assert report.errors[layer] > 0  # something was quantised
    first, again = (getattr(out, "logits", out) for out in (prepared.call(), prepared.call()))
    torch.testing.assert_close(first, again)
    plain = Preparer(CPU).prepare(w.plain)
    assert prepared.kept() < plain.kept()


def doubled(layer: Any) -> None:
    layer.weight.SCB.mul_(2)


def absmax_doubled(layer: Any) -> None:
    layer.weight.quant_state.absmax.mul_(2)


def torchao_doubled(layer: Any) -> None:
    layer.weight.scale.mul_(2)


MUTANTS = {"bnb-int8": doubled, "bnb-nf4": absmax_doubled, "ao-int8-weight": torchao_doubled}


@pytest.mark.parametrize("method", MUTANTS)
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_layer_whose_scale_is_doubled_is_wrong(monkeypatch, method, place):
    """The rule sees it of every method, in any layer; the logits of a deep model would hardly show it."""
    quantize = quantization.quantize

    def broken(model, *arguments, **options):
        made = quantize(model, *arguments, **options)
        layer = made.get_submodule(quantization.quantized_layers(made)[place])
        MUTANTS[method](layer)
        return made

    w = replace(VIT, quantization=method)
    assert Preparer(CPU).prepare(w).check().ok
    monkeypatch.setattr(quantization, "quantize", broken)
    report = Preparer(CPU).prepare(w).check()
    assert not report.ok
    assert "is numerically wrong" in report.message
    assert "layer vit.layers." in report.message


def test_a_quantisation_that_does_nothing_is_wrong(monkeypatch):
    monkeypatch.setattr(quantization, "quantize", lambda model, *arguments, **options: model)
    assert not Preparer(CPU).prepare(replace(VIT, quantization="bnb-int8")).check().ok


def test_wrong_attention_inside_a_quantised_model_is_wrong(monkeypatch):
    """The logits of a quantised model are compared with those of the unquantised one on the same backend, which
    would be as wrong: so that one is held to the error-ratio rule."""
    reference = prepare_models.Models._reference

    def other(self, w, token):
        exact, bounds = reference(self, w, token)
        return {name: 1.01 * x for name, x in exact.items()}, bounds

    monkeypatch.setattr(prepare_models.Models, "_reference", other)
    report = Preparer(CPU).prepare(replace(VIT, quantization="ao-int8-weight")).check()
    assert not report.ok
    assert report.message.startswith("vit-tiny on softmax:sdpa is numerically wrong: logits")


def test_every_method_states_its_budget():
    assert set(budgets()) == {name for name in quantization.methods() if quantization.get(name).kinds}


def test_what_cannot_run_here_is_told_before_anything_is_built():
    reason = Preparer(CPU).why_not(replace(VIT, quantization="ao-fp8-dynamic", dtype="bf16"))
    assert reason == "ao-fp8-dynamic runs on cuda, not on cpu"
    reason = Preparer(CPU).why_not(replace(VIT, quantization="ptq-int8", dtype="bf16"))
    assert reason == "ptq-int8 computes in float32, not in bfloat16"
    assert "unknown quantization 'int3'" in (Preparer(CPU).why_not(replace(VIT, quantization="int3")) or "")


def test_a_compiled_model_whose_call_ran_nothing_compiled_is_wrong():
    w = replace(VIT, compiled=True)
    assert treatments.why_not_compiled({"compiled_regions": 1}, w) is None
    assert "ran nothing compiled" in (treatments.why_not_compiled({"compiled_regions": 0}, w) or "")
    assert "ran nothing compiled" in (treatments.why_not_compiled({}, w) or "")
    assert treatments.why_not_compiled({}, VIT) is None


def test_a_compiler_that_gives_up_is_a_reason():
    def gives_up():
        raise torch._dynamo.exc.FailOnRecompileLimitHit("Hard failure")

    w = replace(VIT, compiled=True, quantization="bnb-int8")
    with pytest.raises(attention.Unsupported, match=r"vit-tiny: torch.compile breaks its graph at bnb-int8"):
        treatments.refusing(gives_up, w)()
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        treatments.refusing(gives_up, VIT)()


def test_relative_error():
    exact = torch.tensor([3.0, 4.0])
    assert treatments.relative_error(exact, exact) == 0
    assert treatments.relative_error(2 * exact, exact) == pytest.approx(1)
    off = exact + torch.tensor([0.0, 0.5])
    assert treatments.relative_error((off, "state"), (exact, "state")) == pytest.approx(0.1)
    assert treatments.relative_error(exact, 0 * exact) == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "ao-int8-dynamic"])
@pytest.mark.parametrize("w", [MODELS["vit"], MODELS["decode"], MODELS["prefill"]], ids=["vit", "decode", "prefill"])
def test_a_compiled_model_is_checked_as_it_is_timed(w, quantization):
    from perf.measure import counters
    from perf.measure.compiling import compiling

    w = replace(w, quantization=quantization, compiled=True)
    with compiling() as result:
        prepared = Preparer(CPU).prepare(w)
        prepared.call()
        report = prepared.check()
    assert report.ok, report.message
    assert result.seconds > 0
    assert result.graphs == 1
    counted = counters.count(prepared.call, CPU).counters
    assert counted["compiled_regions"] == 1
    assert treatments.why_not_compiled(counted, w) is None
