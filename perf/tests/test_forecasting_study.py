"""The study of forecasters: each has a preset of either size on the same windows, and a row in both tables."""
from __future__ import annotations

import json

import numpy as np
import pytest

from models.data import split
from models.figures import Figure
from perf.studies import forecasting
from perf.studies.forecasting import BASE, CANDIDATES, METHODS


@pytest.mark.parametrize("size", ["monthly", "hourly"])
def test_all_forecast_the_same_windows(size):
    windows = [split(candidate.preset(size))[1] for candidate in CANDIDATES.values()]
    assert all(each.at_W2.equal(windows[0].at_W2) and each.horizon == windows[0].horizon for each in windows)


def test_a_window_has_the_mean_score_of_the_seeds():
    seeds = [{"mase": Figure("mase", "", "lower", np.array(items))} for items in ([1.0, 2.0], [3.0, 2.0])]
    assert forecasting.joined(seeds)["mase"].items.tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_every_model_is_in_both_tables(tmp_path, capsys):
    out = tmp_path / "forecasting.jsonl"
    assert forecasting.main(["--out", str(out), "--tiny", "--device", "cpu", "--batch", "8"]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    rows = [record for record in records if record["kind"] == "trained"]
    assert [row["model"] for row in rows] == list(CANDIDATES)
    assert all(row["steps"] == 3 and len(row["seeds"]) == 2 and row["peak MB"] > 0 for row in rows)
    quantised = [record for record in records if record["kind"] == "quantised" and record["method"] != "fp32"]
    assert len(quantised) == len(CANDIDATES) * len(METHODS)
    assert all(record["layers"] > 0 for record in quantised)
    assert BASE in capsys.readouterr().out
