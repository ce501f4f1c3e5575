"""function:fastest takes what this machine's records know, says so, and takes nothing in its place."""
from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention import fastest
from attention.testing import inputs

HERE = "a processor"


def record(backend: str, seconds: float, **changed: Any) -> dict[str, Any]:
    workload: dict[str, Any] = {
        "model": "attention", "function": "softmax", "backend": backend, "phase": "forward-backward", "causal": True,
        "batch": 2, "heads": 4, "kv_heads": 4, "n": 128, "m": 128, "head_dim": 16, "dtype": "fp32"}
    row = {"kind": "evidence", "outcome": "ok", "machine": "1", "median": seconds, "workload": workload}
    for name, value in changed.items():
        (row if name in row else workload)[name] = value
    return row


def write(path: Path, *records: dict[str, Any], name: str = HERE) -> Path:
    lines = [{"kind": "machine", "id": "1", "gpus": [], "cpu": name}, {"kind": "compiled"}, *records]
    text = "\n".join(map(json.dumps, lines)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def ranks(*files: Path, **changed: Any) -> list[str]:
    arguments: dict[str, Any] = {"n": 128, "head_dim": 16, "causal": True, "dtype": "fp32", "phase": "forward-backward",
                             "machine": HERE}
    return [timing.variant for timing in fastest.ranking("softmax", files=files, **arguments | changed)]


def test_variants_are_ranked_by_their_time(tmp_path: Path) -> None:
    file = write(tmp_path / "e.jsonl.gz", record("eager", 3.0), record("sdpa", 1.0), record("tiled", 2.0),
                 record("flex", 0.1, outcome="wrong"), record("flex", 0.1, phase="forward"),
                 record("flex", 0.1, model="gpt2"), record("flex", 0.1, machine="another"), record("eager", 1.5))
    assert ranks(file, tmp_path / "none.jsonl") == ["softmax:sdpa", "softmax:eager", "softmax:tiled"], "the last counts"
    assert ranks(file, machine="another") == []
    for changed in ({"causal": False}, {"head_dim": 32}, {"dtype": "bf16"}, {"phase": "backward"}):
        assert ranks(file, **changed) == [], changed


def test_the_nearest_length_decides_and_a_far_one_says_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "e.jsonl", record("eager", 1.0, n=64), record("sdpa", 2.0, n=64),
                 record("tiled", 9.0, n=256))
    assert ranks(file, n=64) == ranks(file, n=40) == ["softmax:eager", "softmax:sdpa"]
    assert ranks(file, n=200) == ["softmax:tiled"]
    assert ranks(file, n=31) == ranks(file, n=513) == []


def test_only_times_of_one_shape_are_compared(tmp_path: Path) -> None:
    file = write(tmp_path / "e.jsonl", record("eager", 1.0), record("sdpa", 2.0), record("tiled", 0.1, batch=1))
    assert ranks(file) == ["softmax:eager", "softmax:sdpa"]


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fastest, "machine", lambda device: HERE)
    monkeypatch.setenv(fastest.RECORDS, str(tmp_path / "e.jsonl"))
    return tmp_path / "e.jsonl"


def test_create_takes_the_fastest_and_names_it(records: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(records, record("sdpa", 1.0), record("eager", 2.0), record("eager", 0.5, phase="forward"))
    with caplog.at_level(logging.INFO, logger="attention"):
        module = attention.create("softmax:fastest", heads=4, head_dim=16, seq_len=100, causal=True)
    assert module.name == "softmax:sdpa"
    assert "softmax:fastest is softmax:sdpa: 1000 ms at n=128" in caplog.text
    assert module(*inputs(batch=1, heads=4, n=100, head_dim=16)).shape == (1, 4, 100, 16)
    with torch.no_grad():
        module = attention.create("softmax:fastest", heads=4, head_dim=16, seq_len=100, causal=True)
    assert module.name == "softmax:eager"


def test_nothing_is_taken_in_the_fastest_ones_place(records: Path) -> None:
    write(records, record("fa2", 1.0), record("eager", 2.0))
    refusal = (r"^softmax:fastest: the fastest by the records can't be used here: softmax:fa2: .*; or name another: "
               r"softmax:eager$")
    with pytest.raises(ValueError, match=refusal):
        attention.create("softmax:fastest", heads=4, head_dim=16, seq_len=128, causal=True)


@pytest.mark.parametrize(("changes", "part"), [
    ({"seq_len": None}, "pass seq_len"), ({"seq_len": 4096}, "a length within a factor of two of 4096"),
    ({"dtype": torch.float64}, "fp64"), ({"name": "sliding-window:fastest", "window": 3}, "the default options only"),
    ({"name": "nothing:fastest"}, "unknown attention function")])
def test_what_the_records_do_not_know_is_one_line(changes: dict[str, Any], part: str, records: Path) -> None:
    write(records, record("eager", 2.0))
    arguments: dict[str, Any] = {"name": "softmax:fastest", "heads": 4, "head_dim": 16, "seq_len": 128, "causal": True}
    arguments |= changes
    with pytest.raises(ValueError, match=part) as error:
        attention.create(arguments.pop("name"), **arguments)
    assert "\n" not in str(error.value)
