"""The study of padding: both models have a row, and logits that differ are refused."""
from __future__ import annotations

import json

import pytest
import torch

from models import packed
from perf.studies import padding


@pytest.mark.slow
def test_both_models_have_a_row_and_wrong_logits_none(tmp_path, monkeypatch, capsys):
    out = tmp_path / "padding.jsonl"
    tiny = ["--out", str(out), "--tiny", "--device", "cpu", "--batch", "3"]
    assert padding.main(tiny) == 0
    rows = [record for record in map(json.loads, out.read_text().splitlines()) if record["kind"] == "padding"]
    assert [row["model"] for row in rows] == ["gpt2-docstrings", "vit-tiny"]
    for row in rows:
        assert len(row["lengths"]) == 3
        assert sum(row["lengths"]) == row["tokens"]
        assert 0 < row["padding, %"] < 100
        assert row["off"] < 1e-4
    monkeypatch.setattr(packed, "see", lambda model, images: torch.zeros(3, 10))
    assert padding.main(tiny) == 1
    assert "NOT MEASURED vit-tiny: ValueError: packed logits are off" in capsys.readouterr().out


def test_past_its_time_nothing_is_begun(tmp_path, capsys):
    assert padding.main(["--out", str(tmp_path / "out"), "--tiny", "--device", "cpu", "--minutes", "0"]) == 1
    assert "TimeoutError: not begun: 0 s of 0 are spent" in capsys.readouterr().out
