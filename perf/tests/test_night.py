"""The record of a comparison: what goes in comes out, and what is no such record is one line."""
from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.compare.record import WORDS, Comparison, Failed, Finding, Row, Step, load
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, Workload

WORKLOAD = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
FOUND = Finding(WORKLOAD.id, "time", "seconds", "regressed", 1e-3, 1.072e-3, 1.072, 1.061, 1.084, 12,
                "7.2 % slower [6.1, 8.4], 12 pairs", 0.02, "0123abcd", "Ada", "Faster kernels",
                (("11111111", 1e-3), ("0123abcd", 1.072e-3)))
NIGHT = Comparison(1764036000.5, "0123456789ab", {"gpus": ["NVIDIA H200"], "torch": "2.11.0"}, "py3.12", "11111111",
              "22222222", "python -m pytest perf/ --benchmark-only --perf-against 11111111", (FOUND,),
              (Failed("33333333", "can't be imported"),), ("softmax:gone",), (Step("tests", "ok", seconds=12.5),),
              ("one finding",))

numbers = st.none() | st.floats() | st.integers()
ratios = st.none() | st.floats(min_value=0)
words = st.sampled_from(WORDS)
findings = st.builds(Finding, st.text(), st.text(), st.text(), words, numbers, numbers, ratios, numbers, numbers,
                     st.integers(), st.text(), numbers, st.none() | st.text(), st.none() | st.text(),
                     st.none() | st.text(), st.lists(st.tuples(st.text(), st.floats() | st.integers())).map(tuple))
json_values = st.recursive(st.none() | st.booleans() | st.floats() | st.text(),
                           lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def test_it_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "night.json"
    NIGHT.save(path)
    assert load(path) == NIGHT
    assert list(path.parent.iterdir()) == [path]


@given(st.lists(findings, max_size=4).map(tuple))
def test_any_findings_come_back(found):
    """Text of all kinds, numbers that JSON has no word for."""
    night = replace(NIGHT, findings=found)
    assert Comparison.from_json(night.to_json()) == night


def test_what_json_has_no_word_for_is_not_known():
    finding = replace(FOUND, low=0.0, high=math.inf, ratio=math.nan, samples=(("a", math.nan), ("b", 1.0)))
    assert (finding.low, finding.high, finding.ratio, finding.samples) == (0.0, None, None, (("b", 1.0),))


def test_a_row_of_a_comparison_becomes_a_finding():
    verdict = Verdict("regressed", 1.072, 1.061, math.inf, 12, "7.2 % slower", 0, 0.02)
    found = Finding.of(Row(WORKLOAD, verdict, "regressed", 1e-3, 1.072e-3, (1e-3,)))
    assert found == replace(FOUND, high=None, why="7.2 % slower", since=None, author=None, subject=None, samples=())


@pytest.mark.parametrize(("change", "said"), [
    ({"schema": 99}, "schema 99, this version reads 1"),
    ({"base": None}, "base: not str: None"),
    ({"time": "late"}, "time: not a number: 'late'"),
    ({"time": 10 ** 400}, "a number is larger than any float"),
    ({"findings": [{"benchmark": "a"}]}, "missing 3 required positional arguments"),
    ({"findings": [asdict(FOUND) | {"word": "slow"}]}, "unknown word 'slow'; choose from wrong, regressed"),
    ({"findings": [asdict(FOUND) | {"ratio": "1.07"}]}, "ratio: not a number: '1.07'"),
    ({"findings": [asdict(FOUND) | {"pairs": True}]}, "pairs: not int: True"),
    ({"steps": [{"name": "tests", "outcome": "fine"}]}, "unknown outcome 'fine'; choose from ok, failed, skipped"),
    ({"vanished": [1]}, "vanished: not all are a str"),
    ({"mood": "good"}, "unknown field 'mood'"),
])
def test_what_is_no_record_is_one_line(tmp_path, change, said):
    path = tmp_path / "night.json"
    path.write_text(json.dumps(asdict(NIGHT) | change))
    with pytest.raises(ValueError, match="not the record of a comparison") as refused:
        load(path)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000])
def test_a_corrupt_file_is_one_line(tmp_path, content):
    path = tmp_path / "night.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not the record of a comparison: .+; measure again"):
        load(path)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="No such file or directory; give the file"):
        load(tmp_path / "none.json")


@given(st.sampled_from(sorted(asdict(NIGHT))), json_values)
def test_no_value_breaks_the_reader(name, value):
    """It reads it or refuses it: nothing else is raised."""
    try:
        night = Comparison.from_json(json.dumps(asdict(NIGHT) | {name: value}))
    except ValueError as error:
        refused = str(error)
        assert "\n" not in refused
        return
    assert Comparison.from_json(night.to_json()) == night
    assert night.date.endswith(" UTC")
    assert night.hardware


def test_it_says_what_it_ran_on():
    assert NIGHT.hardware == "NVIDIA H200"
    assert replace(NIGHT, fingerprint={"gpus": ["A", "A"]}).hardware == "2 x A"
    assert replace(NIGHT, fingerprint={"gpus": [], "cpu": "Xeon"}).hardware == "Xeon"
    assert replace(NIGHT, fingerprint={"gpus": 1.5, "cpu": ""}).hardware == "a machine that is not described"
    assert replace(NIGHT, fingerprint={}).hardware == "a machine that is not described"
    assert NIGHT.date == "2025-11-25 02:00 UTC"
