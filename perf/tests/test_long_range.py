"""Long Range Arena in small: all classifiers start alike, learn what the lists say, and stand in the table and plot."""
from __future__ import annotations

import json

import pytest
import torch

from models.data import listops
from perf.studies import long_range
from perf.studies.long_range import BASE, CANDIDATES, UNIFORM, Classifier


def test_all_start_from_the_same_weights():
    tokens, _ = listops.items(4, shortest=8, longest=32, seed=0)
    base = dict(Classifier(CANDIDATES[BASE], 32).named_parameters())
    for name, candidate in CANDIDATES.items():
        model = Classifier(candidate, 32)
        shared = {key: weight for key, weight in model.named_parameters() if ".attend." not in key}
        assert shared.keys() == base.keys(), name
        assert all(torch.equal(weight, base[key]) for key, weight in shared.items()), name
        assert model(tokens).shape == (4, 10)


@pytest.mark.slow
def test_a_classifier_learns_its_lists():
    tokens, digits = listops.items(16, shortest=8, longest=32, seed=0)
    model = Classifier(CANDIDATES[BASE], 32)
    step = long_range.trainer(model, tokens, digits, batch=16)
    for _ in range(60):
        step()
    assert long_range.right(model, tokens, digits).value > 80


@pytest.mark.slow
def test_every_function_is_in_the_table_and_the_plot(tmp_path, capsys):
    out, picture = tmp_path / "lra.jsonl", tmp_path / "lra.svg"
    assert long_range.main(["--out", str(out), "--tiny", "--device", "cpu", "--plot", str(picture)]) == 0
    rows = [record for record in map(json.loads, out.read_text().splitlines()) if record["kind"] == "listops"]
    assert [row["attention"] for row in rows] == list(CANDIDATES)
    assert all(row["steps"] == 3 and row["ms a step"] > 0 and row["peak MB"] > 0 for row in rows)
    assert "<svg" in picture.read_text()
    assert UNIFORM in capsys.readouterr().out
