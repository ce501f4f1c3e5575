"""Settings by pattern, the committed file, and what is refused."""
from __future__ import annotations

import gzip
import json
import math
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

import perf
import perf.policy
from perf.verdict.intervals import critical
from perf.verdict.learn import FLOOR, Difference, layout_spread
from perf.verdict.spread import alike, of
from perf.verdict.verdict import Thresholds, thresholds

COMMITTED = tomllib.loads((Path(perf.policy.__path__[0]) / "thresholds.toml").read_text())
RECORDS = Path(perf.__path__[0]) / "records" / "h200-2026-11-26"
CPU_RECORDS = sorted((RECORDS.parent / "cpu-2026-11-30").glob("real-pairs*.jsonl.gz"))
ID = "softmax:flash-forward-causal-b4-h16-kv16-n4096-m4096-d64-bf16"


def test_the_committed_file_says_the_defaults():
    assert thresholds(ID, COMMITTED) == Thresholds()
    learned = {"spread", "weight", "rounds"}  # by earlier runs
    assert {name: value for name, value in asdict(Thresholds()).items() if name not in learned} == COMMITTED["*"]


def test_later_patterns_override_earlier_ones_setting_by_setting():
    table = {"*": {"effect": 0.05, "floor": 0.01}, "softmax:*-b4-*": {"effect": 0.1}, "*-bf16": {"most_pairs": 16},
             "alibi:*": {"effect": 0.2}}
    assert thresholds(ID, table) == Thresholds(effect=0.1, floor=0.01, most_pairs=16)
    assert thresholds("alibi:eager-fp32", table) == Thresholds(effect=0.2, floor=0.01)
    assert thresholds(ID, {}) == Thresholds()


def test_a_kind_of_machine_has_settings_of_its_own():
    table = {"*": {"effect": 0.05, "most_pairs": 16},
             "machines": {"*H200*": {"*": {"floor": 0.005}, "tft*": {"floor": 0.01}}}}
    assert thresholds(ID, table, "NVIDIA H200") == Thresholds(floor=0.005, most_pairs=16)
    assert thresholds("tft-160", table, "NVIDIA H200").floor == 0.01
    assert thresholds(ID, table, "NVIDIA H100 80GB HBM3") == thresholds(ID, table) == Thresholds(most_pairs=16)


def test_the_floor_of_the_h200_lies_above_what_its_records_say_of_two_placements():
    """2.5 standard deviations of the difference of two placements, as the nightly rule learns them from comparisons."""
    t = thresholds(ID, COMMITTED, "NVIDIA H200")
    grid, quick = aa("aa.jsonl.gz"), aa("selftest.json")
    assert len(grid) + len(quick) == 344
    for comparisons in (grid, quick):
        layout = layout_spread([Difference(i, *one, True) for i, one in enumerate(comparisons)], len(comparisons)).min()
        assert 0.75 * math.log1p(t.floor) < FLOOR * math.sqrt(2) * layout < math.log1p(t.floor)
    assert sum(abs(middle) > math.log1p(t.floor) for middle, _ in [*grid, *quick]) == 1


def test_the_pairs_of_the_h200_are_no_more_alike_than_its_settings_say():
    t = thresholds(ID, COMMITTED, "NVIDIA H200")
    series: dict[str, list[float]] = {}
    for line in gzip.decompress((RECORDS / "pair-seconds.jsonl.gz").read_bytes()).decode().splitlines():
        row = json.loads(line)
        if row["seconds"] == 0.3:  # as long as a pair times a benchmark
            series.setdefault(row["workload"], []).append(row["log_ratio"])
    assert [len(ratios) for ratios in series.values()] == [9] * 7
    assert alike([spread for ratios in series.values() if (spread := of(ratios))]) < t.correlation + 0.01


def test_the_pairs_of_cpu_cores_are_no_more_alike_than_their_settings_say():
    lines = [json.loads(line) for path in CPU_RECORDS
             for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]]
    series = [[pair["ratio"] for pair in line["pairs"]] for line in lines]
    spreads = {least: [spread for ratios in series if len(ratios) >= least and (spread := of(ratios))]
               for least in (2, 8)}
    assert len(spreads[8]) >= 56
    assert all(alike(ones) < thresholds(ID, COMMITTED, "cpu").correlation for ones in spreads.values())


def aa(name: str) -> list[tuple[float, float]]:
    """Returns middle and standard error of each comparison of the same code in a record, by the rule of that day."""
    path = RECORDS / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    if path.name.startswith("selftest"):
        rows = [trial["verdict"] for trial in json.loads(text)["trials"] if trial["fault"] is None]
    else:
        rows = [row for row in map(json.loads, text.splitlines()) if "ratio" in row]
    return [(math.log(row["ratio"]), math.log(row["high"] / row["low"]) / 2 / critical(row["pairs"], 0.02))
            for row in rows]


def test_patterns_mind_the_case_of_letters():
    assert thresholds(ID, {"SOFTMAX*": {"effect": 0.2}}) == Thresholds()


@pytest.mark.parametrize(("table", "why"), [
    ({"*": {"efect": 0.1}}, r'\["\*"\] sets \'efect\'; choose from effect, floor'),
    ({"nobody": {"efect": 0.1}}, "sets 'efect'"),
    ({"effect": 0.1}, "effect stands outside a table"),
    ({"machines": {"cpu": {"effect": 0.1}}}, "effect stands outside a table"),
    ({"machines": {"*H200*": {"*": {"efect": 0.1}}}}, "sets 'efect'"),
    ({"machines": {"cpu": 1}}, 'machines."cpu" is no table'),
    ({"machines": 1}, "machines is no table"),
    ({"*": {"correlation": 1}}, "correlation = 1"),
    ({"*": {"effect": "5 %"}}, "effect = '5 %': not a number"),
    ({"*": {"effect": float("nan")}}, "effect = nan: not a number"),
    ({"*": {"effect": True}}, "effect = True: not a number"),
    ({"*": {"effect": 0.01}}, "floor = 0.0125: must be at least 0 and below effect = 0.01"),
    ({"*": {"floor": -0.01}}, "floor = -0.01"),
    ({"*": {"confidence": 95}}, "confidence = 95"),
    ({"*": {"confidence": 0}}, "confidence = 0"),
    ({"*": {"alarm": 0}}, "alarm = 0"),
    ({"*": {"alarm": 0.02}}, "alarm must be at most half of what confidence leaves"),
    ({"*": {"least_pairs": 1}}, "least_pairs = 1: must be at least 2"),
    ({"*": {"most_pairs": 1}}, "at most most_pairs = 1"),
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
