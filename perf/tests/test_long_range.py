"""Long Range Arena in small: all classifiers start alike, learn what the items say, and stand in the table and plot."""
from __future__ import annotations

import json

import pytest
import torch

from attention.registry import functions
from models.data.arena import TASKS
from perf.studies import long_range
from perf.studies.long_range_model import BASE, UNIFORM, Classifier, candidates, right, trainer
from perf.studies.measuring import Study

CPU = torch.device("cpu")


def test_every_function_is_trained_or_has_a_reason():
    chosen, reasons = candidates(32, CPU)
    assert chosen.keys() | reasons.keys() == functions().keys() | {UNIFORM}
    assert not chosen.keys() & reasons.keys()
    assert len(chosen) > 25


@pytest.mark.parametrize("name", ["listops", "retrieval"])
def test_all_start_from_the_same_weights(name):
    task, (chosen, _) = TASKS[name], candidates(32, CPU)
    tokens, _ = task.items(2, 32, False)
    base = dict(Classifier(chosen[BASE], task, 32).named_parameters())
    for each, candidate in chosen.items():
        model = Classifier(candidate, task, 32)
        shared = {key: weight for key, weight in model.named_parameters() if ".attend." not in key}
        assert shared.keys() == base.keys(), each
        assert all(torch.equal(weight, base[key]) for key, weight in shared.items()), each
        if each in (BASE, UNIFORM):
            assert model(tokens).shape == (2, task.classes)


def test_a_task_that_is_cut_has_its_figures_and_says_after_how_many_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "left", 0.0)  # it is begun, and ends after the fewest rounds
    monkeypatch.setattr(long_range, "trainer", lambda model, tokens, *_: lambda: model(tokens[:2]))
    study = Study(CPU, tmp_path / "out.jsonl")
    rows: dict[str, long_range.Row] = {}
    chosen = {name: one for name, one in candidates(32, CPU)[0].items() if name in (BASE, UNIFORM)}
    label, _ = long_range.task_rows(study, "listops", chosen, 32, 30, 2, 8, rows)
    assert label == "listops, 7 of 30 steps"
    assert all(len(row.seconds[label]) == 6 and row.peaks[label] > 0 for row in rows.values())
    monkeypatch.setattr(Study, "left", -1.0)
    with pytest.raises(TimeoutError, match="not begun"):
        long_range.task_rows(study, "listops", chosen, 32, 30, 2, 8, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_classifier_learns_its_items(name):
    task = TASKS[name]
    tokens, labels = task.items(16, 64, False)
    model = Classifier(candidates(64, CPU)[0][BASE], task, 64)
    step = trainer(model, tokens, labels, batch=16)
    for _ in range(80):
        step()
    assert right(model, tokens, labels).value > 90


@pytest.mark.slow
def test_every_function_is_in_the_table_and_the_plot(tmp_path, capsys):
    out, picture = tmp_path / "lra.jsonl", tmp_path / "lra.svg"
    assert long_range.main(["--out", str(out), "--tiny", "--device", "cpu", "--plot", str(picture), "--task", "listops",
                            "--task", "retrieval", "--function", "linear"]) == 0
    rows = [record for record in map(json.loads, out.read_text().splitlines()) if record["kind"] == "long range"]
    assert [(row["task"], row["attention"]) for row in rows] == [
        (task, name) for task in ("listops", "retrieval") for name in (BASE, "linear", UNIFORM)]
    assert all(row["steps"] == 3 and row["ms a step"] > 0 and row["peak MB"] > 0 for row in rows)
    assert "<svg" in picture.read_text()
    printed = capsys.readouterr().out
    assert "kv-quantised: it has no gradient" in printed
    assert "the most frequent answer" in printed
