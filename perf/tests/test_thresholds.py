"""Settings by pattern, the committed file, and what is refused."""
from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

import perf.policy
from perf.verdict.verdict import Thresholds, thresholds

COMMITTED = tomllib.loads((Path(perf.policy.__path__[0]) / "thresholds.toml").read_text())
ID = "softmax:flash-forward-causal-b4-h16-kv16-n4096-m4096-d64-bf16"


def test_the_committed_file_says_the_defaults():
    assert thresholds(ID, COMMITTED) == Thresholds()
    learned = {"spread", "weight", "rounds"}  # by the nightly decision, from history
    assert {name: value for name, value in asdict(Thresholds()).items() if name not in learned} == COMMITTED["*"]


def test_later_patterns_override_earlier_ones_setting_by_setting():
    table = {"*": {"effect": 0.05, "noise": 0.01}, "softmax:*-b4-*": {"effect": 0.1}, "*-bf16": {"most_pairs": 16},
             "alibi:*": {"effect": 0.2}}
    assert thresholds(ID, table) == Thresholds(effect=0.1, noise=0.01, most_pairs=16)
    assert thresholds("alibi:eager-fp32", table) == Thresholds(effect=0.2, noise=0.01)
    assert thresholds(ID, {}) == Thresholds()


def test_patterns_mind_the_case_of_letters():
    assert thresholds(ID, {"SOFTMAX*": {"effect": 0.2}}) == Thresholds()


@pytest.mark.parametrize(("table", "why"), [
    ({"*": {"efect": 0.1}}, r'\["\*"\] sets \'efect\'; choose from effect, noise'),
    ({"nobody": {"efect": 0.1}}, "sets 'efect'"),
    ({"effect": 0.1}, "effect stands outside a table"),
    ({"*": {"effect": "5 %"}}, "effect = '5 %': not a number"),
    ({"*": {"effect": float("nan")}}, "effect = nan: not a number"),
    ({"*": {"effect": True}}, "effect = True: not a number"),
    ({"*": {"effect": 0.01}}, "noise = 0.0125: must be at least 0 and below effect = 0.01"),
    ({"*": {"noise": -0.01}}, "noise = -0.01"),
    ({"*": {"confidence": 95}}, "confidence = 95"),
    ({"*": {"confidence": 0}}, "confidence = 0"),
    ({"*": {"alarm": 0}}, "alarm = 0"),
    ({"*": {"alarm": 0.02}}, "alarm must be at most half of what confidence leaves"),
    ({"*": {"least_pairs": 1}}, "least_pairs = 1: must be at least 2"),
    ({"*": {"most_pairs": 2}}, "at most most_pairs = 2"),
    ({"*": {"most_pairs": 7.5}}, "most_pairs = 7.5: not a whole number"),
    ({"*": {"memory": -1}}, "memory = -1"),
    ({"*": {"error_factor": 0.5}}, "error_factor = 0.5"),
])
def test_impossible_settings_are_refused_in_one_line(table, why):
    with pytest.raises(ValueError, match=why) as refusal:
        thresholds(ID, table)
    assert "\n" not in str(refusal.value)


def test_many_benchmarks_share_the_alarm_of_a_run():
    assert Thresholds().among(1) == Thresholds().among(10) == Thresholds()
    assert Thresholds().among(100).alarm == pytest.approx(1e-5)
    assert Thresholds().among(1000).alarm * 1000 == pytest.approx(1e-3)
    assert Thresholds().among(0) == Thresholds()
