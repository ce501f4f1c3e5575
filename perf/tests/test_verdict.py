"""The verdict: its words by hand, its sentence, and when sampling may stop."""
from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from perf.tests.sides import INDEPENDENT, SIDE, T, around, decided, span, with_counter
from perf.verdict.intervals import estimate
from perf.verdict.verdict import WORDS, decide, family, may_stop


@pytest.mark.parametrize(("change", "word"), [
    (0, "ok"), (0.01, "ok"), (-0.01, "ok"), (0.02, "inconclusive"),
    (0.05, "regressed"), (1 / 1.05 - 1, "improved"), (0.1, "regressed"),
    (1, "regressed"), (-0.5, "improved")])
def test_what_12_quiet_pairs_say_of_time(change, word):
    result = decided(SIDE, around(change))
    assert (result.word, result.pairs, result.more_pairs > 0) == (word, 12, word == "inconclusive")
    assert result.ratio == pytest.approx(1 + change)
    low, ratio, high = span(result)
    assert low < ratio < high


def test_an_interval_by_hand():
    """n = 4, 98 %: t = 9.064 as in test_intervals; mean 1 %, standard deviation sqrt(2/3) %: 3.70 % either way."""
    result = decided(SIDE, [0.0, 0.01, 0.01, 0.02], t=INDEPENDENT)
    assert span(result) == pytest.approx((math.exp(-0.0270), math.exp(0.01), math.exp(0.0470)), abs=1e-4)
    assert result.word == "ok"  # 4.70 % in logarithms, below log 1.05 = 4.88 %
    assert result.why == "1.0 % slower [-2.7, 4.8], 4 pairs, within 4.8 %"
    assert decided(SIDE, [0.003, 0.013, 0.013, 0.023], t=INDEPENDENT).word == "inconclusive"


def test_an_interval_of_correlated_pairs_by_hand():
    """n = 4, r = 0.5: 3/4 r + 2/4 r^2 + 1/4 r^3 = 0.53125; (1 + 1.0625) / (1 - 1.0625 / 3) = 3.1935 times the
    variance: 3.70 % * 1.787 = 6.61 %."""
    result = decided(SIDE, [0.0, 0.01, 0.01, 0.02])
    assert T.correlation == 0.5
    assert span(result) == pytest.approx((math.exp(-0.0561), math.exp(0.01), math.exp(0.0761)), abs=1e-4)


def test_the_sentence():
    result = decided(replace(with_counter(launches=7), kernels={**SIDE.kernels, "aten::clone": 3}), around(0.072, 0.01))
    assert result.word == "regressed"
    assert result.why.startswith("7.2 % slower [4.")
    assert result.why.endswith("], 12 pairs; likely from launches: 3 more kernel launches: aten::clone x3")


def test_a_faster_head_is_told_by_how_much_less_time_it_takes():
    assert decided(SIDE, around(-0.2, 0.001)).why.startswith("20.0 % faster [19.")
    assert decided(SIDE, around(0)).why.startswith("the same time [-")
    assert decided(SIDE, around(1.5)).why.startswith("150 % slower [14")


def test_inconclusive_says_how_many_more_pairs_and_what_these_could_tell():
    result = decided(SIDE, around(0.03, 0.04))
    assert result.word == "inconclusive"
    assert result.more_pairs > 0
    assert result.certified is not None
    assert result.certified > 0.05
    assert f"{result.more_pairs} more pairs would decide" in result.why
    assert f"can tell changes from {100 * result.certified:.1f} % on" in result.why


@pytest.mark.parametrize(("change", "spread"), [(0.0, 0.03), (0.03, 0.02), (0.05, 0.04), (0.2, 0.2)])
def test_as_many_more_pairs_as_it_says_do_decide_if_they_look_like_these(change, spread):
    few = around(change, spread, 4)
    promised = decided(SIDE, few)
    assert promised.word == "inconclusive"
    deviation = math.sqrt(sum((x - math.log1p(change)) ** 2 for x in few) / 3)
    n = 4 + promised.more_pairs
    assert decided(SIDE, stretched(change, deviation, n)).word != "inconclusive"
    assert decided(SIDE, stretched(change, deviation, n - 1)).word == "inconclusive"


def stretched(change: float, deviation: float, n: int) -> list[float]:
    """Finds n pairs whose trimmed mean and spread are these, by bisection of a scale."""
    shape = [x / n - (n - 1) / 2 / n for x in range(n)]
    scale = deviation / estimate(shape).spread
    return [math.log1p(change) + scale * x for x in shape]


def test_one_more_pair():
    """Half widths of 4 and 5 such pairs: 5.7 and 4.1 %."""
    assert decided(SIDE, stretched(0, 0.0125, 4), t=INDEPENDENT).more_pairs == 1


@pytest.mark.parametrize("spread", [0.002, 0.02])  # where the floor sets it, and where the alarm does
def test_what_is_certified_is_called_a_change_where_it_is_one(spread):
    certified = decided(SIDE, around(0, spread)).certified
    assert certified is not None
    close = replace(T, effect=0.0126)
    assert decided(SIDE, around(certified * 1.01, spread), t=close).word == "regressed"
    assert decided(SIDE, around(certified * 0.97, spread), t=close).word != "regressed"


def test_within_reach_is_what_the_most_pairs_of_the_spread_seen_would_certify():
    few = decided(SIDE, around(0, 0.02, 5), t=replace(T, most_pairs=12))
    many = [ratio * estimate(around(0, 0.02, 5)).spread / estimate(around(0, 0.02)).spread for ratio in around(0, 0.02)]
    assert few.within_reach == pytest.approx(decided(SIDE, many).certified)
    assert few.within_reach is not None
    assert few.certified is not None
    assert few.within_reach < 0.5 * few.certified


@pytest.mark.parametrize(("change", "word"), [(0.03, "regressed"), (-0.03, "improved")])
def test_a_certain_change_above_the_floor_is_called_however_small(change, word):
    """The smallest change that matters used to hide such a change."""
    assert abs(change) < T.effect
    assert decided(SIDE, around(change, 0.0005, 8)).word == word


def test_a_change_in_sight_is_not_ok():
    """Its interval excludes a change of 5 %, and its middle lies 2 standard errors above the floor: more pairs."""
    pairs = around(0.02, 0.005)
    result = decided(SIDE, pairs)
    seen = estimate(pairs, T.prior)
    assert span(result)[2] < 1 + T.effect
    assert seen.middle - 2 * seen.error() > math.log1p(T.floor) > seen.middle - seen.half_width(0.02)
    assert result.word == "inconclusive"
    assert not result.slower


def test_slower_says_that_the_interval_lies_above_the_floor_whatever_the_word():
    pairs = around(0.1, 0.01, 4)
    result = decided(SIDE, pairs)
    assert (result.word, result.slower) == ("inconclusive", True)  # 4 pairs are too few for an alarm
    assert decided(SIDE, around(0.1)).slower
    assert not decided(SIDE, around(-0.1)).slower
    assert not decided(SIDE, around(0)).slower


def test_no_number_of_pairs_makes_a_change_of_what_two_layouts_differ_by():
    small = replace(T, effect=0.013)
    assert decided(SIDE, around(0.012, 0.0001, 32), t=small).word != "regressed"
    assert decided(SIDE, around(0.02, 0.0001, 32), t=small).word == "regressed"


def test_the_alarm_asks_for_more_than_the_interval():
    """5 pairs of this spread lie clear of the floor, and not clear of nothing at the alarm's confidence."""
    pairs = around(0.1, 0.012, 5)
    result = decided(SIDE, pairs)
    assert span(result)[0] > 1 + T.floor
    assert result.word == "inconclusive"
    assert decided(SIDE, pairs, t=replace(T, alarm=0.01)).word == "regressed"


@pytest.mark.parametrize(("pairs", "low", "high", "more"), [([], None, None, 3), ([0.2], 0.0, math.inf, 4)])
def test_no_pairs_and_one_tell_no_time(pairs, low, high, more):
    result = decided(SIDE, pairs)
    assert (result.word, result.low, result.high, result.pairs) == ("inconclusive", low, high, len(pairs))
    assert result.more_pairs == more  # 3 quiet ones can tell ok
    assert f"at least {more} more pairs would decide" in result.why
    assert decided(with_counter(launches=5), pairs).word == "regressed"
    assert decided(with_counter(launches=3), pairs).word == "inconclusive"


def test_before_the_least_pairs_nothing_is_decided():
    quiet = around(0, 0.001, 6)
    assert decided(SIDE, quiet).word == "ok"
    assert decided(SIDE, quiet, t=replace(T, least_pairs=7)).word == "inconclusive"
    assert not may_stop(quiet, replace(T, least_pairs=7))


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ValueError, match="log ratio 2 of 3 is nan"):
        decided(SIDE, [0.0, math.nan, 0.0])


LACKS: dict[str, Any] = {"missing": "no such backend", "counters": {}, "peak_bytes": None, "error": None, "kernels": {}}
UNFIT, FALSE = {"invalid": "throttled"}, {"wrong": "error 3x the bound"}


@pytest.mark.parametrize(("base", "head", "word", "why"), [
    ({}, FALSE, "wrong", "error 3x"), (FALSE, FALSE, "wrong", "error 3x"), (UNFIT, FALSE, "wrong", "error 3x"),
    ({}, UNFIT, "invalid", "throttled"), (UNFIT, {}, "invalid", "throttled"), (UNFIT, LACKS, "invalid", "throttled"),
    ({}, LACKS, "missing", "the head can't do it: no such backend"),
    (LACKS, LACKS, "missing", "neither side can do it"),
    (LACKS, {}, "new", "the base can't do it: no such backend"), (FALSE, {}, "new", "the base is wrong: error 3x")])
def test_the_order_of_words(base, head, word, why):
    slow = with_counter(replace(SIDE, **head), launches=9)
    result = decide(around(0.3), replace(SIDE, **base), slow, T)
    assert (result.word, result.ratio, result.low, result.high, result.more_pairs) == (word, None, None, None, 0)
    assert why in result.why
    assert result.word in WORDS


@pytest.mark.parametrize(("peak", "word", "why"), [
    (15_000_000, "regressed", "not timed; likely from bytes: peak memory 1.5x (5.0 MB more); does not fit"),
    (10_000_000, "missing", "neither side can do it: does not fit"),
    (5_000_000, "missing", "neither side can do it: does not fit")])
def test_what_fits_once_and_not_twice_is_regressed_by_what_was_counted(peak, word, why):
    """A head that takes more memory must not be skipped for it."""
    base = replace(SIDE, missing="does not fit")
    result = decide([], base, replace(base, peak_bytes=peak), T)
    assert (result.word, result.why, result.ratio) == (word, why, None)


def test_sampling_stops_when_the_time_is_known_or_the_most_pairs_are_taken():
    assert not may_stop([], T)
    assert not may_stop([0.0], T)
    assert may_stop(around(0), T)
    assert may_stop(around(0.3), T)
    unclear = around(0.03, 0.02, 31)
    assert not may_stop(unclear, T)
    assert may_stop([*unclear, 0.03], T)


def test_sampling_stops_halfway_where_three_times_the_most_pairs_would_not_decide():
    assert not may_stop(around(0.03, 1, 15), T)
    assert may_stop(around(0.03, 1, 16), T)
    assert not may_stop(around(0.03, 0.02, 16), T)


def test_a_change_across_most_benchmarks_is_one_finding():
    slow, fast, same = (decided(SIDE, around(change)) for change in (0.08, -0.08, 0))
    assert family({str(i): slow if i < 6 else same for i in range(10)}) == [
        "one finding: 6 of 10 benchmarks regressed, 1.080x the base's time (geometric mean); look for what they share"]
    assert family({str(i): slow if i < 5 else same for i in range(10)}) == []
    assert family({str(i): slow for i in range(2)}) == []
    (result,) = family({str(i): fast for i in range(4)})
    assert "4 of 4 benchmarks improved, 0.920x" in result
    assert family({}) == []
