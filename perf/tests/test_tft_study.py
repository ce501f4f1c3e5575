"""Study 000 measured again: its faults are really there, under their name, and every claim stands beside a figure."""
from __future__ import annotations

import json
import sys
import time
from unittest.mock import Mock

import pytest
import torch

import attention
import models
from models.data import series
from models.tft import inputs
from perf.measure import clocks
from perf.studies import tft, tft_search
from perf.studies.calls import bounded, timing
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.ratio import Ratio, change
from perf.studies.rounds import in_turns
from perf.studies.tft_faults import ALL, NONE, SLOW, Faults, create
from perf.studies.tft_kernels import STUDY, Kernels
from perf.studies.tft_sizes import sizes

CPU = torch.device("cpu")
PRESET = sizes("tiny", cuda=False).small


@pytest.fixture
def quick(monkeypatch):
    """Lets the clock take as few rounds as it may."""
    monkeypatch.setattr(clocks.CpuClock, "warm_up", 0.0)
    monkeypatch.setattr(clocks.CpuClock, "budget", 0.01)


def forecast(faults: Faults, **given) -> torch.Tensor:
    with torch.no_grad():
        return create(PRESET, "softmax:eager", faults)(**inputs(PRESET, batch=3), **given)


def test_each_fault_is_one():
    right = forecast(NONE)
    with torch.no_grad():
        torch.testing.assert_close(models.create(PRESET)(**inputs(PRESET, batch=3)), right)
    torch.testing.assert_close(forecast(SLOW), right)  # 192 queries for 24 answers: a cost, no error
    torch.testing.assert_close(forecast(Faults(unpadded=True)), right)  # nothing is padded here
    assert not torch.allclose(forecast(Faults(scaled_twice=True)), right)
    assert not torch.allclose(forecast(Faults(unbiased=True)), right)
    short = torch.tensor([12, 5, 9])
    assert not torch.allclose(forecast(Faults(unpadded=True), lengths_B=short), forecast(NONE, lengths_B=short))
    assert str(ALL) == "scaled twice, unpadded, unbiased, all queries"
    assert str(NONE) == "none"


def test_queries_scaled_twice_are_queries_divided_by_the_width():
    right, wrong = (create(PRESET, "softmax:eager", faults).get_submodule("multihead_attn.core")
                    for faults in (NONE, ALL))
    q, k, v = torch.randn(3, 1, PRESET.heads, 5, PRESET.head_dim)
    torch.testing.assert_close(wrong(q, k, v), right(q / PRESET.head_dim ** 0.5, k, v))


def test_a_gpus_kernel_is_not_asked_of_the_cpu_that_makes_the_weights():
    core = create(PRESET, "softmax:fa2", device="meta").get_submodule("multihead_attn.core")
    assert isinstance(core, type(attention.create("softmax:fa2", heads=PRESET.heads, head_dim=PRESET.head_dim)))


def test_flash_is_claimed_in_a_dtype_that_it_has(tmp_path, monkeypatch):
    kernels = Kernels(Study(CPU, tmp_path / "out.jsonl"), sizes("tiny", cuda=False), 1)
    assert kernels.dtype == "fp32"
    kernels = Kernels(kernels.study, kernels.size, 1)
    monkeypatch.setattr(kernels, "why_not", lambda row: "no mask" if row.dtype == "fp32" else None)
    assert kernels.dtype == "bf16"


def test_the_search_chooses_by_windows_that_do_not_reach_into_the_test():
    for windows in tft_search.validation(PRESET):
        for s, first in windows.at_W2.tolist():
            assert first + windows.context + windows.horizon <= round(.8 * len(series.monthly()[s].values))


def test_a_search_without_optuna_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"optuna is needed for the search: pip install 'attention-perf\[search\]'"):
        tft_search.main(["--out", str(tmp_path / "out"), "--storage", str(tmp_path / "db")])


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill_prunes_and_tests_once(tmp_path, capsys, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    words = ["--out", str(tmp_path / "out"), "--storage", str(tmp_path / "db"), "--tiny", "--device", "cpu"]
    assert tft_search.main([*words, "--trials", "1", "--minutes", "0"]) == 1
    assert "not tested: 0 of 1" in capsys.readouterr().out
    storage = f"sqlite:///{tmp_path / 'db'}"
    (name,) = optuna.get_all_study_names(storage)
    search = optuna.load_study(study_name=name, storage=storage)
    for rate in (5e-3, 5e-3, 4e-3, 5e-3, 4e-3, 5e-4):
        search.enqueue_trial({"batch": 64, "heads": 2, "rate": rate})
    search.ask()  # and no end of it: what a killed run leaves
    split = Mock(side_effect=tft_search.split)
    monkeypatch.setattr(tft_search, "split", split)
    assert tft_search.main([*words, "--trials", "5", "--plots", str(tmp_path)]) == 0
    states = [trial.state.name.lower() for trial in search.get_trials()]
    assert states == ["running", *4 * ["complete"], "pruned"]
    tested = capsys.readouterr().out.partition("tested once")[2]
    assert {path.name for path in tmp_path.glob("*.png")} == {"tft-search-history.png", "tft-search-importances.png"}
    assert tft_search.main([*words, "--trials", "9"]) == 0  # once tested, nothing is searched
    assert capsys.readouterr().out.partition("tested once")[2] == tested
    split.assert_called_once()


def test_the_large_model_has_the_studys_size():
    for name in ("small", "study"):
        large = sizes(name, cuda=False).large
        with torch.device("meta"):
            model = models.create(large, device="meta")
        assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(53e6, rel=0.03)


def test_a_call_is_bounded_and_two_are_compared_in_turns(quick):
    with pytest.raises(TimeoutError, match="not done after 0 s"), bounded(0.05):
        time.sleep(5)
    assert timing(lambda: torch.ones(1000), CPU, 10).peak == 4000
    ratio = in_turns(lambda: time.sleep(0.002), lambda: time.sleep(0.006), CPU, 10)
    assert 1.5 < ratio.median < 4.5
    assert ratio.at_most(0.97) is False
    assert Ratio(0.9, 0.01, 9).at_most(0.97) is True
    assert Ratio(0.96, 0.05, 9).at_most(0.97) is None
    assert (Ratio(1.01, 0.01, 9).within(0.03), Ratio(1.1, 0.01, 9).within(0.03)) == (True, False)
    assert Ratio(1.0, 0.1, 9).within(0.03) is None


def test_a_claim_that_fails_is_no_error_but_a_part_that_fails_is(tmp_path, capsys):
    study = Study(CPU, tmp_path / "out.jsonl")
    claims = Claims(study)
    claims.add("half the time", "-50 %", change(2.0, 2.2), False)
    assert claims.end() == 0
    told = capsys.readouterr().out
    assert "FAILS            half the time: published -50 %\n                 measured +10.0 %" in told
    with study.part("the rest"):
        raise RuntimeError("no kernel")
    assert claims.end() == 1
    assert "NOT MEASURED     the rest: RuntimeError: no kernel" in capsys.readouterr().out


@pytest.mark.slow
def test_both_tables_of_study_000_on_tiny_models(tmp_path, capsys, quick):
    out = tmp_path / "tft.jsonl"
    assert tft.main(["--out", str(out), "--tiny", "--device", "cpu"]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    rows = [record for record in records if record["kind"] == "000a"]
    faulty = [row for row in rows if row["faults"] == str(ALL)]
    assert {row["attention"] for row in faulty} == {STUDY}
    assert {row["dtype"] for row in faulty} == {"fp32", "bf16"}
    assert all(row["queries"] == PRESET.sizes["context"] + PRESET.sizes["horizon"] for row in faulty)
    trained = [row for row in rows if row["training"]]
    assert len(trained) == 4
    assert all(row["training"]["steps"] == 3 and row["mase"] > 0 for row in trained)
    quantised = [(row["size"], row["method"], row["trained"]) for row in records if row["kind"] == "000b"]
    assert quantised == [("small", "fp32", "3 steps"), ("small", "ptq-int8", "3 steps"),
                         ("large", "fp32", "not trained"), ("large", "ptq-int8", "not trained")]
    told = capsys.readouterr().out
    assert STUDY in told
    assert all(record["measured"] in told for record in records if record["kind"] == "claim")
    assert any(record["part"].startswith("fa2") and "CUDA" in record["reason"] for record in records
               if record["kind"] == "skipped")
