"""The studies of GPT-2 and ViT again: rows are what they say, rounds are fair, each claim is beside a measurement."""
from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models import gpt2
from models.data import digits
from models.figures import Change
from models.quantization import quantized_layers
from perf.measure.sampling import FEWEST
from perf.studies import summarisation, summarisation_times, vit, vit_claims, vit_rows, vit_times
from perf.studies.claims import Claims, table
from perf.studies.gpt2_rows import POSITIONS, ROWS, build, copy_weights, error_ratio
from perf.studies.measuring import Study
from perf.studies.ratio import Ratio
from perf.studies.rounds import able, interleaved, orders, rounds, side_by_side
from perf.studies.summarisation_quality import COPIED, TRAINED, Outcome
from perf.studies.vit_times import Speed

CPU = torch.device("cpu")
GPT2, VIT = models.get("gpt2-tiny"), models.get("vit-tiny")
STANDARD, SDPA, FLASH, ALIBI, WINDOW = ROWS


def records(path: Path, kind: str) -> list[dict]:
    return [record for record in map(json.loads, path.read_text().splitlines()) if record["kind"] == kind]


def test_every_round_has_every_row_once_in_orders_that_favour_none():
    rounds = list(itertools.islice(orders("abcd"), 400))
    assert all(sorted(names) == list("abcd") for names in rounds)
    for place in range(4):
        assert all(count > 60 for count in Counter(names[place] for names in rounds).values())  # 100 expected


def test_rows_are_called_equally_often():
    called: list[str] = []
    found = interleaved({name: functools.partial(called.append, name) for name in "abc"}, CPU, seconds=0.01, most=20)
    assert len({*map(len, found.values())}) == 1
    assert Counter(called) == {name: len(found[name]) + 1 for name in "abc"}  # the first round isn't counted


def test_a_study_whose_seconds_are_spent_takes_the_fewest_rounds(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl", seconds=0)
    assert {figures["rounds"] for figures in side_by_side(study, {"a": list, "b": list}, 60).values()} == {FEWEST}


def test_a_row_that_does_not_run_leaves_the_others(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl")

    def fails() -> None:
        raise torch.OutOfMemoryError("no room")

    assert list(able(study, {"a": fails, "b": list}, "batch 1")) == ["b"]
    assert study.failures == ["a, batch 1: OutOfMemoryError: no room"]


def test_a_ratio_is_that_of_the_rounds_whatever_drifts():
    drift = [1.0, 1.1, 1.3, 2.0, 3.0, 4.0, 5.0]
    found = Ratio.of([0.9 * seconds for seconds in drift], drift)
    assert (found.median, found.interval) == (pytest.approx(0.9), pytest.approx(0))
    assert str(found) == "-10.0 % ± 0.0"  # faster
    assert str(Ratio.of([3.0, 3.0], [1.0, 1.0])) == "3.00x the time ± 0.00"


def test_of_two_calls_each_is_first_as_often():
    assert Counter(first for first, _ in itertools.islice(orders("ab"), 20)) == {"a": 10, "b": 10}


@pytest.mark.parametrize(("seconds", "known", "counted"), [(0.0, 99, 6), (60.0, 7, 7), (60.0, 99, 20)])
def test_rounds_end_when_they_know_enough_or_time_is_spent(seconds, known, counted):
    found = rounds({"a": lambda: 1.0}, seconds=seconds, most=20, known=lambda found: len(found["a"]) >= known)
    assert found == {"a": counted * [1.0]}


@pytest.mark.parametrize(("time", "word"), [(0.7, "holds"), (0.98, "FAILS"), (1.3, "FAILS")])
def test_a_claim_of_time_holds_where_as_much_is_saved(tmp_path, time, word):
    """Published: flash takes 0.763 of a forward pass, 0.974 of a step of 16, 0.83 of NF4's time."""
    claims = Claims(Study(CPU, tmp_path / "out.jsonl"))
    found = [summarisation_times.Comparison("flash", 16, phase, Ratio(time, 0.001, 9), time)
             for phase in ("prefill", "train-step")]
    summarisation.claim_times(claims, found, "")
    summarisation.claim_training(claims, found[1:], "")
    vit_claims.claim_times(claims, {vit_rows.BASE: Speed((9.0, 9.0), 4, 1), vit_claims.NF4: Speed((1.0, 1.0), 1, 1),
                                    vit_claims.NF4_FLASH: Speed((time, time), 1, 1)}, "")
    measured = f"{100 * (time - 1):+.1f} %"
    told = {claim.text: (claim.published, claim.measured.startswith(measured), claim.word) for claim in claims.all}
    assert told["flash: time of a forward pass"] == ("-23.7 %", True, word)
    assert told["flash: time of a training step of 16"] == ("-2.62 %", True, word)
    assert told["time of flash on top of NF4"] == ("-16.9 %", True, word)
    assert told["flash: peak memory"] == ("-6.3 % with whatever else was resident", True, word)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_have_the_same_weights_but_alibis_positions(row):
    source, target = (build(GPT2, one, torch.float32, CPU) for one in (STANDARD, row))
    for weight in source.parameters():
        torch.nn.init.normal_(weight, std=0.02)  # what a new model of the same seed would not have
    unused = copy_weights(source, target)
    weights = dict(source.named_parameters())
    different = [name for name, weight in target.named_parameters() if not torch.equal(weight, weights[name])]
    assert different == unused == ([POSITIONS] if row == ALIBI else [])
    assert error_ratio(target, GPT2, row, n=48) <= 1


def test_the_same_function_has_the_same_logits_and_another_has_others():
    tokens = gpt2.inputs(models.get("gpt2-docstrings"), batch=1, n=100)["input_ids"]
    made = [build(models.get("gpt2-docstrings"), row, torch.float32, CPU) for row in ROWS]
    for model in made[1:]:
        copy_weights(made[0], model)
    with torch.no_grad():
        standard, sdpa, flash, alibi, window = (gpt2.logits(model, tokens) for model in made)
    torch.testing.assert_close(sdpa, standard)
    torch.testing.assert_close(flash, standard)
    torch.testing.assert_close(window[:, :65], standard[:, :65])  # to where a query's 64 keys before it are all
    assert not torch.allclose(window[:, 65:], standard[:, 65:], atol=1e-4)
    assert not torch.allclose(alibi, standard, atol=1e-4)


def test_a_row_that_is_wrong_is_not_timed():
    model = build(GPT2, WINDOW, torch.float32, CPU)
    with pytest.raises(ValueError, match="standard: the logits are off by"):
        error_ratio(build(models.get("gpt2-docstrings"), WINDOW, torch.float32, CPU), models.get("gpt2-docstrings"),
                    STANDARD, n=100)
    assert error_ratio(model, GPT2, WINDOW, n=48) <= 1


def test_a_claim_fails_without_failing_the_study(tmp_path, capsys):
    claims = Claims(Study(CPU, tmp_path / "out.jsonl"))
    claims.add("faster", "40 %", "-3 %", False)
    claims.add("smaller", "4x", "3x", True, apart="another model")
    claims.add("lighter", "1 %", "-1 % ± 2", None)
    assert claims.end() == 0
    told = capsys.readouterr().out
    assert "FAILS            faster: published 40 %\n                 measured -3 %\n" in told
    assert "not comparable   smaller: published 4x\n                 measured 3x (another model)\n" in told
    assert "undecided        lighter: published 1 %\n" in told
    with claims.study.part("later"):
        raise RuntimeError("no")
    assert claims.end() == 1


@pytest.mark.parametrize(("low", "high", "word"), [(0.1, 0.3, "holds"), (-0.3, 0.3, "not shown worse"),
                                                   (-0.3, -0.1, "FAILS")])
def test_what_is_not_shown_to_lose_is_not_shown_to_be_the_same(tmp_path, low, high, word):
    claims = Claims(Study(CPU, tmp_path / "out.jsonl"))
    change = Change("top1", "points", "higher", 9.0, 9.0 + (low + high) / 2, low, high, 100)
    claims.add_no_loss("int8 costs nothing", "no figure", change)
    assert [claim.word for claim in claims.all] == [word]


@pytest.mark.parametrize(("interval", "shown"), [(0.001, "holds"), (0.2, "undecided")])
def test_a_time_whose_interval_reaches_beyond_the_claim_is_undecided(tmp_path, interval, shown):
    """Published: flash takes 0.763 of a forward pass; 0.75 is less, if it is known well enough."""
    claims = Claims(Study(CPU, tmp_path / "out.jsonl"))
    found = summarisation_times.Comparison("flash", 16, "prefill", Ratio(0.75, interval, 9), 0.75)
    summarisation.claim_times(claims, [found], "")
    assert claims.all[0].word == shown


def test_a_table_has_the_columns_of_all_rows():
    assert table("t", [{"a": "x", "b": 1.0}, {"a": "y", "c": 12345.6}]).splitlines() == [
        "", "t", "a  b      c", "x  1      -", "y  -  12346"]


def test_times_and_memory_of_each_attention(tmp_path, capsys):
    out = tmp_path / "001.jsonl"
    assert summarisation.main(["--out", str(out), "--tiny", "--device", "cpu", "--part", "inference",
                               "--part", "generation", "--part", "training", "--accumulate", "2"]) == 0
    assert [record["row"] for record in records(out, "row")] == [row.name for row in ROWS]
    assert [record["attention"] for record in records(out, "measured")] == 3 * [row.name for row in ROWS]
    assert {record["word"] for record in records(out, "claim")} == {"not comparable"}
    assert "in 2 parts" in capsys.readouterr().out


def test_a_table_goes_on_without_a_row_that_does_not_fit(tmp_path, capsys):
    s = summarisation_times.Sizes(GPT2, torch.float32, 16, (1,), 16, (2,), seconds=0.1)
    study = Study(CPU, tmp_path / "out.jsonl")
    built = summarisation_times.build_all(study, s)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    built[STANDARD.name][0].forward = fails
    found = summarisation_times.training(study, s, built) + summarisation_times.inference(study, s, built)
    assert found == []  # there is nothing to compare with
    assert [record["attention"] for record in records(study.out, "measured")] == 2 * [row.name for row in ROWS[1:]]
    assert [said.rpartition(": ")[2] for said in study.failures] == 3 * ["no room"]


@pytest.mark.parametrize(("low", "high", "word"), [(0.2, 3.0, "holds"), (-2.0, 0.5, "FAILS"),
                                                   (-1.0, 2.0, "undecided"), (-1.0, 0.7, "undecided")])
def test_a_change_of_rouge_is_a_part_and_holds_fails_or_can_not_be_told(tmp_path, low, high, word):
    """Published: ALiBi gains 1.69 points of 18.06, which is 9.4 %; here that is 0.66 points of 7."""
    change = Change("rouge1", "points", "higher", 7.0, 7.0 + (low + high) / 2, low, high, 100)
    claims = Claims(Study(CPU, tmp_path / "out.jsonl"))
    summarisation.claim_quality(claims, [Outcome("ALiBi", TRAINED, {"rouge1": change}),
                                         Outcome("ALiBi", COPIED, {"rouge1": change})], tiny=False)
    assert [claim.word for claim in claims.all] == [word]  # of the one that was trained with it


@pytest.mark.slow
def test_summaries_of_each_attention(tmp_path):
    out = tmp_path / "001.jsonl"
    assert summarisation.main(["--out", str(out), "--tiny", "--device", "cpu", "--part", "quality"]) == 0
    found = {(record["row"], record["weights"]): record["changes"] for record in records(out, "summaries")}
    assert len(found) == 7
    assert found["sdpa", "softmax's weights"]["loss"]["new"] == pytest.approx(
        found["standard", "softmax's weights"]["loss"]["new"])
    assert found["ALiBi", "trained with it"]["loss"]["new"] != found["ALiBi", "softmax's weights"]["loss"]["new"]


def test_the_ablation_names_the_layers_that_it_keeps():
    kept = dict(vit_rows.kept(models.get("vit-digits")))
    assert list(kept) == ["none", "first and last", "layer 0", "layer 1", "layer 2", "layer 3"]
    model = models.create("vit-digits")
    for name, skip in kept.items():
        made = vit_rows.treated(model, vit_rows.Treatment("fp16", method="bnb-nf4-dq"), models.get("vit-digits"), skip)
        plain = {layer for layer, module in made.named_modules() if type(module) is torch.nn.Linear}
        assert plain == {"classifier"} | {layer for layer, _ in model.named_modules() if layer.startswith(
            tuple(f"{one}." for one in skip)) and isinstance(model.get_submodule(layer), torch.nn.Linear)}, name


def test_a_treated_row_within_its_budget_and_one_beyond_it():
    model: Any = models.create(VIT)
    row = vit_rows.Treatment("fp32", method="bnb-int8")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = vit_rows.treated(model, row, VIT)
    assert 0 < vit_rows.check(made, row, model, VIT, images)["layer"] < 0.035
    with torch.no_grad():
        model.get_submodule("vit.layers.0.mlp.fc1").weight.mul_(2)
    with pytest.raises(ValueError, match="bnb-int8 sdpa: "):
        vit_rows.check(made, row, model, VIT, images)


@pytest.mark.parametrize(("speed", "lost", "word"), [
    (Speed((1.0,) * 9, 3, 5), 0.0, "holds"), (Speed((1.0,) * 9, 3, 5), 0.6, "FAILS"),
    (Speed((1.0,) * 9, 4, 5), 0.0, "FAILS"), (Speed((3.0,) * 9, 3, 5), 0.0, "FAILS"),
    (Speed((1.0,) * 9, 3, 6), 0.0, "FAILS"), (Speed((1.0, 3.0) * 9, 3, 5), 0.0, "undecided"),
], ids=["all", "quality", "size", "time", "memory", "noise"])
def test_the_joint_gate_wants_all_four(tmp_path, speed, lost, word):
    claims, row = Claims(Study(CPU, tmp_path / "out.jsonl")), vit_rows.Treatment("fp32", method="low-rank")
    change = Change("top1", "points", "higher", 99.0, 99.0 - lost, -lost - 0.05, -lost + 0.05, 1797)
    vit_claims.claim_gate(claims, {vit_rows.BASE: Speed((2.0,) * len(speed.seconds), 4, 5), row: speed}, {row: change})
    assert [claim.word for claim in claims.all] == [word]


def test_quantised_rows_keep_what_is_named(tmp_path):
    held_out = replace(digits.load(), side=32).take(slice(8))
    chosen = [vit_rows.BASE, vit_rows.Treatment("fp16", method="bnb-int8")]
    made = dict(vit.treat(Study(CPU, tmp_path / "out.jsonl"), models.create(VIT), VIT, held_out, chosen,
                          ["vit.layers.1"]))
    assert list(made) == chosen
    assert {name.split(".")[2] for name in quantized_layers(made[chosen[1]])} == {"0"}


def test_rows_have_their_times_before_anything_looks_at_their_kernels(tmp_path, capsys, monkeypatch):
    study, images = Study(CPU, tmp_path / "out.jsonl"), torch.randn(1, 3, 32, 32)

    def takes_long(*_: Any) -> None:
        raise TimeoutError("not done after 20 s")

    monkeypatch.setattr(vit_times, "_kernels", takes_long)
    chosen = {row: models.create(VIT) for row in (vit_rows.BASE, vit_rows.Treatment("fp32", vit_rows.FLASH))}
    speeds = vit_times.times(study, chosen, images, seconds=0.01)
    assert list(speeds) == list(chosen)
    assert [record["row"] for record in records(study.out, "times")] == ["fp32 sdpa", "fp32 flash"]
    assert len(study.failures) == 2
    assert "p99" in capsys.readouterr().out


def test_half_of_the_time_is_left_to_rows_that_are_made(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl", seconds=100)
    held_out = replace(digits.load(), side=32).take(slice(4))
    assert dict(vit.treat(study, models.create(VIT), VIT, held_out, [vit_rows.BASE], [], reserve=200)) == {}
    assert study.failures == ["fp32 sdpa: TimeoutError: not begun: 0 s of 100 are spent"]


def test_what_a_device_lacks_is_a_line(tmp_path, capsys):
    study = Study(CPU, tmp_path / "out.jsonl")
    chosen = vit.available(study, VIT, compiled=False)
    assert [row.name for row in chosen][:4] == ["fp32 sdpa", "fp16 sdpa", "fp16 flash", "bf16 sdpa"]
    (skipped,) = records(study.out, "skipped")
    assert skipped["reason"] == "ao-fp8-dynamic runs on cuda, not on cpu"
    assert f"ao-fp8-dynamic sdpa skipped: {skipped['reason']}" in capsys.readouterr().out


def test_a_part_and_rows_by_name(tmp_path):
    out = tmp_path / "002.jsonl"
    named = ["--row", "fp32 sdpa", "--row", "fp16 flash", "--part", "times", "--fold-seconds", "0.1", "--batch", "2"]
    assert vit.main(["--out", str(out), "--tiny", "--device", "cpu", *named]) == 0
    assert [record["row"] for record in records(out, "times")] == ["fp32 sdpa", "fp16 flash"]
    assert not records(out, "fold")


def test_a_model_that_has_learnt_nothing_is_not_judged(tmp_path):
    out = tmp_path / "002.jsonl"
    untrained = ["--model", "vit-tiny", "--device", "cpu", "--fold-seconds", "0.01", "--images", "64"]
    assert vit.main(["--out", str(out), *untrained, "--part", "quality", "--row", "fp32 sdpa"]) == 1
    (failed,) = records(out, "failed")
    assert failed["reason"].startswith("training: ValueError: the model has learnt nothing, Top-1 from ")
    assert not records(out, "fold")


def test_the_best_of_many_gains_some_by_chance():
    assert vit_claims.by_chance(8, 24) == pytest.approx(24 / 128)
    assert vit_claims.by_chance(3, 24) == 1
    assert vit_claims.by_chance(12, 24) < 0.05


@pytest.mark.slow
def test_every_column_of_the_vit_study(tmp_path, capsys, monkeypatch):
    out = tmp_path / "002.jsonl"
    chosen = [row for row in vit_rows.rows(compiled=False) if row.method != "low-rank"]  # a second of training is short
    monkeypatch.setattr(vit, "rows", lambda compiled: chosen)
    assert vit.main(["--out", str(out), "--tiny", "--device", "cpu"]) == 0
    rows = [row.name for row in chosen if row.method != "ao-fp8-dynamic"]
    for kind in ("times", "kernels"):
        assert [record["row"] for record in records(out, kind)] == 2 * rows
    assert [record["row"] for record in records(out, "quality")] == rows[1:]
    folds = records(out, "fold")  # two of each row, and of each kept set of layers: what a run that is cut leaves
    assert [fold["row"] for fold in folds if "row" in fold] == 2 * rows
    assert sum("kept" in fold for fold in folds) == 2 * 2 * 3
    top1 = {row: 100 - 100 * sum(len(fold["wrong"]) for fold in folds if fold.get("row") == row) / 128 for row in rows}
    assert {record["row"]: record["new"] for record in records(out, "quality")} == pytest.approx(
        {row: top1[row] for row in rows[1:]})
    assert [(record["method"], record["kept"]) for record in records(out, "ablation")] == [
        (method, name) for method in ("bnb-int8", "bnb-nf4-dq") for name in ("none", "layer 0", "layer 1")]
    claims = [record for record in records(out, "claim") if "joint gate" not in record["text"]]
    assert [record["word"] for record in claims] == 9 * ["not comparable"] + 2 * ["FAILS"]
    gates = [record["text"].partition(":")[0] for record in records(out, "claim") if "joint gate" in record["text"]]
    assert gates == [row.name for row in chosen if row.method and row.name in rows]
    told = capsys.readouterr().out
    assert all(column in told for column in ("p99", "images/s", "attention ms", "model MB", "f1"))
