"""The studies of a cache of few bits, a fused LSTM and fine-tuning: what is wrong gets no time, bytes are counted."""
from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from perf.studies import finetuning, kv_cache, recurrence

TINY = ["--tiny", "--device", "cpu"]


def records(path: Path, kind: str) -> list[dict]:
    return [record for record in map(json.loads, path.read_text().splitlines()) if record["kind"] == kind]


def test_a_cache_of_few_bits_has_its_bytes_and_its_error(tmp_path, capsys):
    out = tmp_path / "kv.jsonl"
    assert kv_cache.main(["--out", str(out), *TINY]) == 0
    rows = {record["cache"]: record for record in records(out, "kv cache")}
    bytes_a_number = {"whole": 4, "8 bits": 1 + 8 / 64, "4 bits": .5 + 8 / 64}  # 8 bytes of lo and step for 64
    numbers = 2 * 2 * 600 * 64
    assert {name: rows[name]["MB"] * 1e6 / numbers for name in bytes_a_number} == pytest.approx(bytes_a_number)
    newest, middle, old = 256, 256, 600 - 512
    mixed = (newest * 4 + middle * (1 + 8 / 64) + old * (.5 + 8 / 64)) / 600
    assert rows["staircase"]["MB"] * 1e6 / numbers == pytest.approx(mixed)
    assert rows["whole"]["error"] == 0
    assert 0 < rows["8 bits"]["error"] < rows["staircase"]["error"] < rows["4 bits"]["error"] < 0.3
    assert "staircase" in capsys.readouterr().out


def fake(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Puts an LSTM by its formula in FlashRNN's place, Wx (B, T, 4, 1, D) and R (4, 1, D, D) as its README has them;
    its answers are `scale` times what is right."""
    def flashrnn(wx, r, b, *, function, backend, dtype):
        assert (function, backend, dtype) == ("lstm", "vanilla", "float32")
        h = c = torch.zeros(len(wx), wx.shape[-1])
        states = []
        for step in wx.squeeze(3).unbind(1):
            i, f, g, o = (step + torch.einsum("gij,bj->bgi", r.squeeze(1), h) + b.squeeze(1)).unbind(1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return scale * torch.stack(states, 1)[None, :, :, None], None

    module = types.ModuleType("flashrnn")
    monkeypatch.setattr(module, "flashrnn", flashrnn, raising=False)
    monkeypatch.setitem(sys.modules, "flashrnn", module)


def test_both_lstms_answer_alike_and_are_timed(tmp_path, monkeypatch):
    fake(monkeypatch, 1.0)
    out = tmp_path / "rnn.jsonl"
    assert recurrence.main(["--out", str(out), *TINY]) == 0
    rows = records(out, "recurrence")
    assert [(row["LSTM"], row["phase"]) for row in rows] == [
        (name, phase) for phase in ("forward", "forward-backward") for name in (recurrence.BASE, recurrence.FLASH)]
    assert all(0 < row["error"] < 1e-6 for row in rows)


def test_an_lstm_with_other_answers_gets_no_time(tmp_path, monkeypatch):
    fake(monkeypatch, 1.1)
    out = tmp_path / "rnn.jsonl"
    assert recurrence.main(["--out", str(out), *TINY]) == 1
    (failed,) = records(out, "failed")
    assert "FlashRNN, width 16, fp32: ValueError: answers are off by 1.0e-01, 0.01 is allowed" in failed["reason"]
    assert {row["LSTM"] for row in records(out, "recurrence")} == {recurrence.BASE}


def test_without_the_package_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashrnn", None)
    with pytest.raises(ImportError, match=r"^flashrnn is needed for its kernels: pip install flashrnn einops \("):
        recurrence.flash(nn.LSTM(4, 4), torch.zeros(1, 2, 4), "vanilla")


@pytest.mark.slow
def test_each_way_of_fine_tuning_has_its_row(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    out = tmp_path / "tuned.jsonl"
    assert finetuning.main(["--out", str(out), *TINY]) == 0
    trained = {row["fine-tuned"]: row["trained weights"] for row in records(out, "fine-tuning")}
    assert list(trained) == ["whole", "LoRA", "QLoRA, bnb-nf4-dq", "head alone"]
    assert trained["LoRA"] == trained["QLoRA, bnb-nf4-dq"]
    assert trained["whole"] > trained["LoRA"] > trained["head alone"] == 650
    times = {row["fine-tuned"]: row["ms"] for row in records(out, "time of fine-tuning")}
    assert times.keys() == trained.keys()
    assert times["head alone"] < times["whole"]
