"""A record of launch pairs is replayed by the shipped rule and by public ones; the records are made up."""
from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from perf.studies.real_pairs import PLANTED, lot, summary
from perf.studies.real_rates import FAILS, OURS, RECORDS, Rates, page, rates, table, wilson
from perf.studies.real_rules import RULES, Comparison

MADE_UP = random.Random(7)
INSTALLED = ("asv continuous 1.1", "asv continuous 1.03", "pytest-benchmark mean:5%", "pytest-benchmark min:5%",
             "Bencher percentage 5%", "Bencher z-score 0.99")


def side(slower: float, noise: float = 0.002, rounds: int = 100) -> dict[str, Any]:
    launch = MADE_UP.gauss(0, 0.001)
    return summary([1e-3 * math.exp(math.log1p(slower) + launch + MADE_UP.gauss(0, noise)) for _ in range(rounds)],
                   rounds)


def line(series: int, benchmark: str, planted: float, pairs: int = 4, **fields: Any) -> dict[str, Any]:
    sides = [(side(0.0), side(planted)) for _ in range(pairs)]
    return {"series": series, "benchmark": benchmark, "planted": planted, "reason": None, "pairs": [
        {"ratio": math.log(head["median"] / base["median"]), "unfit": None, "host": None, "base": base, "head": head,
         **fields} for base, head in sides]}


def replayed(*lines: dict[str, Any]) -> Rates:
    rates = Rates()
    rates.add([{"kind": "NVIDIA H200"}, *lines])
    return rates


def test_all_rules_are_asked_about_the_same_comparisons() -> None:
    rates = replayed(*(line(series, f"b{i}", planted)
                       for series, planted in enumerate((0.0, 0.02, 0.07, 0.2)) for i in range(3)))
    hits = {rule: [sum(said[size]) for size in (0.0, 0.02, 0.07, 0.2)] for rule, said in rates.said.items()}
    assert hits[OURS] == [0, 3, 3, 3]
    assert hits["asv continuous 1.1"] == [0, 0, 0, 3]
    assert hits["asv continuous 1.03"] == hits["pytest-benchmark mean:5%"] == [0, 0, 3, 3]
    assert all(len(said[size]) == 3 for said in rates.said.values() for size in said)
    assert set(hits) - {OURS, FAILS} == set(RULES) - {reason.partition(" is left out")[0] for reason in rates.reasons}
    text = "\n".join(table("NVIDIA H200", rates))
    assert f"| {OURS} | 0 of 3 [0, 56] | 3 of 3 [44, 100] | 3 of 3 [44, 100] | 3 of 3 [44, 100] |" in text
    assert "- ours, 7% slower: 3 regressed; 2.0 pairs" in text


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_sees_a_large_slowdown_and_none_where_nothing_differs(rule: str) -> None:
    quiet, slow = ([side(share) for _ in range(4)] for share in (0.0, 0.5))
    earlier = [1e-3 + 1e-7 * i for i in range(8)]
    try:
        assert RULES[rule](Comparison(quiet, slow, earlier)) is True
    except ModuleNotFoundError:
        assert rule not in INSTALLED
        pytest.skip(f"{rule} has no package here")
    assert RULES[rule](Comparison(quiet, quiet, earlier)) is False


def test_few_rounds_say_nothing_to_a_test_that_wants_thirty() -> None:
    few = [side(0.0, rounds=20)] * 2
    pytest.importorskip("scipy")
    assert RULES["tritonbench A/B"](Comparison(few, few)) is None


def test_what_was_not_compared_stands_beside_what_was() -> None:
    rates = replayed(line(0, "b0", 0.0, pairs=1), {**line(0, "b1", 0.1, pairs=0), "reason": "a launch takes longer"},
                     line(0, "b2", 0.0, unfit="hot"))
    assert rates.words == {0.0: {"invalid": 1}}
    assert rates.reasons["fewer than two pairs: a launch takes longer"] == 1
    assert rates.reasons["fewer than two pairs: the time was over"] == 1


def test_what_ours_missed_is_told() -> None:
    text = list(table("cpu", replayed(*(line(0, f"b{i}", 0.1, unfit="hot") for i in range(4)))))
    told = [entry for entry in text if "missed" in entry]
    assert len(told) == 2
    assert told[0].startswith("  - missed: `b0` is invalid: ")
    assert "  - and 2 more" in text


def test_a_record_of_ratios_alone_is_for_our_rule() -> None:
    ratios = [1e-4, -1e-4, 2e-4]
    rates = replayed(*({"series": 0, "benchmark": f"b{i}", "planted": 0.0, "ratios": ratios, "reason": None}
                       for i in range(3)))
    assert list(rates.said) == [OURS, FAILS]
    assert rates.words[0.0] == {"ok": 3}


def test_each_share_has_its_turn_among_ten() -> None:
    lots = lot(random.Random(0))
    for _ in range(3):
        assert sorted(itertools.islice(lots, len(PLANTED))) == sorted(PLANTED)


def test_a_summary_holds_means_of_equal_parts_and_no_more_rounds_than_asked() -> None:
    one = summary([float(i) for i in range(1, 1001)], 100)
    assert one["parts"] == [50.5 + 100 * i for i in range(10)]
    assert len(one["rounds"]) == 100
    assert one["min"], one["median"] == (1.0, 500.5)
    assert "rounds" not in summary([1.0, 2.0], 0)


def test_the_page_says_what_the_records_say() -> None:
    lines = (RECORDS[0].parents[3] / "docs" / "rates.md").read_text(encoding="utf-8").splitlines()
    told = [line for line in page(rates(RECORDS)).splitlines() if "is left out:" not in line]
    assert len(told) > 30
    assert not [line for line in told if line not in lines]


@pytest.mark.parametrize(("hits", "trials", "low", "high"),
                         [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (5, 10, 0.237, 0.763)])
def test_wilson_intervals(hits: int, trials: int, low: float, high: float) -> None:
    """Brown, Cai and DasGupta print them: Statistical Science 16 (2001) 101."""
    assert wilson(hits, trials) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
