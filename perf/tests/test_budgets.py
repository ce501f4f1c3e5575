"""Budgets of quantisation, and the joint gate: quality lost beyond them fails, whatever the speed."""
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models
from models import quality, quantization
from models.figures import Figure, compare
from models.quantization import layers
from models.recipes import RECIPES
from perf.bench.quality import Judge, Quality
from perf.measure.evidence import load
from perf.measure.roofline import Ceilings
from perf.policy.budgets import Budget, budget, budgets, doubt, excess, parse
from perf.run.options import Settings
from perf.run.replay import Script
from perf.run.session import Session
from perf.workloads.families import FAMILIES
from perf.workloads.grids import quantizations
from perf.workloads.workload import Workload

ROOT = Path(__file__).parents[2]
HALF = Budget(layer=0.1, logits=0.1, points=0.5, relative=0.02, reason="a test's")


def hits(right: int, of: int, first: int = 0) -> Figure:
    """Marks so many items as right, beginning at one."""
    return Figure("top1", "points", "higher", 100.0 * (np.arange(of) >= first) * (np.arange(of) < first + right))


def losses(value: float, spread: float = 0.0, items: int = 200) -> Figure:
    return Figure("loss", "nats", "lower", value + spread * np.random.default_rng(0).standard_normal(items))


@pytest.mark.parametrize(("base", "new", "fails"), [
    (hits(1750, 1797), hits(1750, 1797), False),
    (hits(1750, 1797), hits(1700, 1797), True),  # 2.8 points
    (hits(1750, 1797), hits(1747, 1797), False),  # 0.17: within the budget
    (hits(350, 360), hits(347, 360), False),  # 0.8 points of few items: chance could have done it
    (hits(1700, 1797), hits(1750, 1797), False),  # better
    (losses(2.0), losses(2.03), False),
    (losses(2.0), losses(2.05), True),
    (losses(2.0), losses(1.5), False),
])
def test_quality_beyond_the_budget_is_lost(base, new, fails):
    result = excess(compare(base, new), HALF)
    assert (result is not None) == fails
    if result:
        assert result.startswith("loses more quality than its budget of ")
        assert "\n" not in result


def test_what_the_items_cannot_exclude_is_told_and_fails_nothing():
    few = compare(hits(350, 360), hits(347, 360))
    assert excess(few, HALF) is None
    assert "360 items can't exclude a loss of" in (doubt(few, HALF) or "")
    many = compare(hits(17500, 17970), hits(17500, 17970))
    assert doubt(many, HALF) is None
    assert doubt(compare(hits(1750, 1797), hits(1700, 1797)), HALF) is None  # it fails: no doubt


def test_more_loss_never_passes_where_less_failed():
    results = [excess(compare(hits(1750, 1797), hits(right, 1797)), HALF) for right in range(1750, 1600, -10)]
    assert [bool(one) for one in results] == sorted(bool(one) for one in results)


@pytest.mark.parametrize(("settings", "said"), [
    ({"layer": 0.1}, "must set layer, logits, points, relative, reason, and nothing else"),
    ({**HALF.__dict__, "speed": 1}, "and nothing else"),
    ({**HALF.__dict__, "layer": 0}, "layer = 0: must be a number above 0"),
    ({**HALF.__dict__, "points": math.inf}, "points = inf"),
    ({**HALF.__dict__, "relative": "1"}, "relative = '1'"),
    ({**HALF.__dict__, "reason": " "}, "gives no reason"),
    (3, "must set"),
])
def test_a_file_that_makes_no_sense_is_one_line(settings, said):
    with pytest.raises(ValueError, match=r"^budgets.toml: \[bnb-int8\] ") as refusal:
        parse({"bnb-int8": settings})
    assert said in str(refusal.value)


def test_the_committed_budgets_are_those_of_the_methods():
    for name, one in budgets().items():  # a layer whose scale is doubled is off by 1
        assert 0 < one.layer < (0.7 if quantization.get(name).learnt else 0.25)
    with pytest.raises(ValueError, match="int3 has no budget of error and quality"):
        budget("int3")


VIT = Workload("vit-tiny", "softmax", "sdpa", "forward", False, 1, 4, 4, 17, 17, 16, "fp32")

GPT2 = Workload("gpt2-tiny", "softmax", "sdpa", "prefill", True, 1, 4, 4, 16, 16, 16, "fp32")
TFT = Workload("tft-tiny", "softmax", "sdpa", "forward", True, 1, 4, 4, 4, 16, 4, "fp32")


class Benchmark:
    """Is as much of pytest-benchmark's fixture as a session uses."""

    enabled = True

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Any, rounds: int, iterations: int) -> None:
        pass


@pytest.mark.parametrize(("injected", "fails"), [(0, False), (60, True)])
def test_a_row_that_loses_quality_fails_and_gets_no_time(tmp_path, monkeypatch, injected, fails):
    """An unquantised model has 1750 of 1797 items right, the quantised one so many less."""
    def evaluate(model: Any, preset: str) -> dict[str, Figure]:
        return {"top1": hits(1750 - (injected if quantization.quantized_layers(model) else 0), 1797)}

    monkeypatch.setattr(quality, "evaluate", evaluate)
    monkeypatch.setattr(Judge, "_trained_model", lambda self, name, w: models.create("vit-tiny", attention=w.variant))
    quantised = replace(VIT, quantization="ao-int8-weight")
    settings = Settings(torch.device("cpu"), "default", [VIT, quantised], tmp_path / "evidence.jsonl", precision=0.5,
                        unfit="keep", quality=True)
    session = Session(settings, Script())
    session.ceilings = Ceilings(copy=1e10, matmul={"fp32": 1e11})
    session.measure(VIT, Benchmark())
    if fails:
        message = "vit-tiny in ao-int8-weight loses more quality than its budget of 0.5: top1"
        with pytest.raises(pytest.fail.Exception, match=message):
            session.measure(quantised, Benchmark())
    else:
        session.measure(quantised, Benchmark())
    of_plain, of_quantised = load(settings.evidence)
    assert of_plain.quality["new"] == of_quantised.quality["base"] == pytest.approx(100 * 1750 / 1797)
    assert (of_quantised.outcome, of_quantised.median is None) == (("wrong", True) if fails else ("ok", False))


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.trained])
def test_what_gates_is_trained_and_has_its_figure(family):
    name, figure = FAMILIES[family].trained, FAMILIES[family].figure
    assert figure is not None
    pytest.importorskip({"vit": "sklearn", "gpt2": "tokenizers", "tft": "statsmodels"}[family])
    assert name in RECIPES
    result = quality.evaluate(models.create(name), name, limit=3)[figure]
    assert (models.get(name).family, len(result.items)) == (family, 3)


def test_quality_that_cannot_be_had_is_a_reason(tmp_path):
    judge = Judge(torch.device("cpu"), tmp_path)
    judge._qualities[("gpt2", GPT2.variant, "fp32", "none")] = Quality(reason="no trained preset")
    assert judge.of(GPT2).reason == "no trained preset"  # each is asked for once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perf.workloads.families.FAMILIES", {})
        assert judge.of(VIT).reason == "no trained preset of the family vit"
        assert judge.of(VIT).lost is None


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in quantizations() if quantization.why_not(m, device="cpu") is None])
@pytest.mark.parametrize("w", [VIT, GPT2, TFT], ids=["vit", "gpt2", "tft"])
def test_trained_models_keep_their_budgets(w, method):
    """Measured, not injected; the trained presets stay in the folder that --perf-quality keeps them in."""
    judged = Judge(torch.device("cpu"), ROOT / ".perf" / "trained").of(replace(w, quantization=method))
    assert judged.reason is None
    assert judged.lost is None
    if w is VIT:
        assert judged.figures["base"] >= 97


@pytest.mark.slow
@pytest.mark.parametrize(("w", "bits"), [(VIT, 1), (GPT2, 2), (TFT, 2)], ids=["vit", "gpt2", "tft"])
def test_a_real_loss_is_caught(monkeypatch, w, bits):
    """A method that keeps so few bits of each weight, on an even grid over its row exceeds the budget of 8 bits."""
    def keep_bits(model: torch.nn.Module, method: str, **_: Any) -> torch.nn.Module:
        for name in layers.choose(model, quantization.get(method), ())[0]:
            weight = model.get_submodule(name).get_parameter("weight").data
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
            step = (high - low) / (2 ** bits - 1)
            weight.copy_(low + ((weight - low) / step).round() * step)
        return model

    monkeypatch.setattr(quantization, "quantize", keep_bits)
    judged = Judge(torch.device("cpu"), ROOT / ".perf" / "trained").of(replace(w, quantization="ao-int8-weight"))
    assert judged.lost is not None
    assert judged.lost.startswith("loses more quality than its budget of ")
