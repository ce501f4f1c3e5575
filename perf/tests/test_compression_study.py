"""The study of compression: what is pruned stays zero through training, a taught model comes nearer to its teacher."""
from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import models
from perf.studies import compression

TINY = models.get("tft-tiny").resized(static=(3,), known=3, observed=1)


def create() -> Any:
    return models.create(TINY, attention="softmax:sdpa")


def test_half_of_each_weight_is_zero_after_training_and_the_rest_has_changed(monkeypatch):
    monkeypatch.setattr(compression, "MIN_SIDE", 8)
    model = create()
    small = compression.pruned(model, TINY, 2)
    before, after = model.state_dict(), small.state_dict()
    assert before.keys() == after.keys()
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
              and min(layer.weight.shape) >= 8]
    assert layers
    for name in layers:
        old, new = before[f"{name}.weight"], after[f"{name}.weight"]
        assert 0.4 < (new == 0).float().mean() < 0.6, name
        assert old[new == 0].abs().max() <= old[new != 0].abs().min()
        assert not torch.equal(old[new != 0], new[new != 0])


def test_a_layer_s_weights_share_few_values_and_zeros_stay(monkeypatch):
    monkeypatch.setattr(compression, "MIN_SIDE", 8)
    model = create()
    with torch.no_grad():
        for layer in compression.wide(model):
            layer.weight[layer.weight.abs() < 0.05] = 0
    for before, after in zip(compression.wide(model), compression.wide(compression.clustered(model)), strict=True):
        old, new = before.weight.detach(), after.weight.detach()
        assert torch.equal(old == 0, new == 0)
        assert len(new[new != 0].unique()) <= compression.CLUSTERS
        evenly = (old.max() - old.min()) / compression.CLUSTERS
        assert (new - old).square().mean() < evenly.square() / 12  # what an even grid of as many values leaves


def test_zeros_deflate():
    model = create()
    whole = compression.deflated(model)
    with torch.no_grad():
        model.output_layer.weight.zero_()
    assert compression.deflated(model) < whole - 3 * model.output_layer.weight.numel()


@pytest.mark.slow
def test_a_taught_model_comes_nearer_to_its_teacher():
    teacher: Any = models.create(TINY, attention="softmax:sdpa", seed=1).eval()
    with torch.no_grad():
        teacher.output_layer.bias += 3.0
    inputs = compression.split(TINY)[1].batch(torch.arange(8))[0]
    apart = [(compression.trained(create(), TINY, 30, who)(**inputs) - teacher(**inputs)).abs().mean().item()
             for who in (None, teacher)]
    assert apart[1] < apart[0]


@pytest.mark.slow
def test_every_row_is_in_the_table(tmp_path, capsys):
    out = tmp_path / "compression.jsonl"
    assert compression.main(["--out", str(out), "--tiny", "--device", "cpu"]) == 0
    rows = {row["model"]: row for row in map(json.loads, out.read_text().splitlines()) if row["kind"] == "compression"}
    assert len(rows) == 9
    assert rows["pruned, clustered"]["MB"] == rows["pruned"]["MB"]
    assert rows["pruned, clustered"]["times smaller"] > 1.5 * rows["pruned"]["times smaller"]
    assert rows["pruned"]["MB"] == rows["TFT"]["MB"]
    assert rows["pruned"]["times smaller"] > 1.3
    assert rows["small, taught, pruned, int8"]["times smaller"] > rows["pruned, int8"]["times smaller"] > 3
    assert "small, taught" in capsys.readouterr().out


def test_past_its_time_nothing_is_begun(tmp_path, capsys):
    assert compression.main(["--out", str(tmp_path / "out"), "--tiny", "--device", "cpu", "--minutes", "0"]) == 1
    assert "TimeoutError: not begun: 0 s of 0 are spent" in capsys.readouterr().out
