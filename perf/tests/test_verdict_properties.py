"""Holds what must be true of a verdict whatever the evidence."""
from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perf.tests.sides import GPU, SIDE, T, decided, span, with_counter
from perf.verdict.intervals import estimate
from perf.verdict.verdict import WORDS, decide, may_stop

changes = st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=33)


@settings(deadline=None)  # a busy machine takes its time
@given(changes)
def test_swapping_the_sides_swaps_the_words(pairs):
    other = {"regressed": "improved", "improved": "regressed"}
    one, two = decided(SIDE, pairs), decided(SIDE, [-x for x in pairs])
    assert two.word == other.get(one.word, one.word)
    assert two.more_pairs == one.more_pairs
    low, ratio, high = span(one)
    assert span(two)[1] == pytest.approx(1 / ratio)
    if low > 0 and high < math.inf:
        assert span(two) == pytest.approx((1 / high, 1 / ratio, 1 / low))
    assert may_stop(pairs, T) == may_stop([-x for x in pairs], T)


@settings(deadline=None)  # a busy machine takes its time
@given(changes)
def test_words_and_intervals_agree(pairs):
    result = decided(SIDE, pairs)
    low, ratio, high = span(result)
    assert low <= ratio <= high
    if result.word == "ok":
        assert 1 / (1 + T.effect) < low <= high < 1 + T.effect
    if result.word == "regressed":
        assert low > 1 + T.floor
    if result.word == "improved":
        assert high < 1 / (1 + T.floor)
    assert (result.more_pairs > 0) == (result.word == "inconclusive")
    assert result.word in WORDS
    if result.word != "inconclusive":
        assert may_stop(pairs, T)


@settings(deadline=None)  # a busy machine takes its time
@given(changes, st.floats(0, 0.3))
def test_slower_pairs_never_sound_faster(pairs, shift):
    order = {"improved": 0, "ok": 1, "regressed": 2}
    before, after = decided(SIDE, pairs).word, decided(SIDE, [x + shift for x in pairs]).word
    if before in order and after in order:
        assert order[after] >= order[before]


@settings(deadline=None)  # a busy machine takes its time
@given(changes, st.floats(0.1, 1))
def test_a_smaller_spread_decides_no_other_way_round(pairs, factor):
    middle = estimate(pairs).middle
    before = decided(SIDE, pairs).word
    after = decided(SIDE, [middle + factor * (x - middle) for x in pairs]).word
    assert {before, after} != {"regressed", "improved"}
    if before in ("improved", "regressed"):
        assert after == before
    if before == "ok" and abs(middle) < math.log1p(T.floor):
        assert after == "ok"


@settings(deadline=None)  # a busy machine takes its time
@given(st.floats(0.0126, 0.3), st.sampled_from([-1, 1]), st.lists(st.floats(-3, 3), min_size=3, max_size=33))
def test_enough_less_noise_calls_any_change_above_the_floor(change, sign, shape):
    """Scaled down, the same pairs are called by their sign from some spread on, and for every smaller one."""
    middle = estimate(shape).middle
    known = replace(T, spread=1e-3, weight=8.0, floor=0.0025)
    words = [decided(SIDE, [sign * math.log1p(change) + spread * (x - middle) for x in shape], t=known).word
             for spread in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)]
    called = "regressed" if sign > 0 else "improved"
    assert words[-1] == called
    first = words.index(called)
    assert words[first:] == [called] * (len(words) - first)


@settings(deadline=None)  # a busy machine takes its time
@given(changes, st.integers(1, 5000))
def test_more_benchmarks_raise_no_more_alarms(pairs, count):
    alone, together = decided(SIDE, pairs).word, decided(SIDE, pairs, t=T.among(count)).word
    assert together in (alone, "inconclusive")
    assert alone != "ok" or together == "ok"


@settings(deadline=None)  # a busy machine takes its time
@given(st.floats(1.02, 3), st.integers(0, 10 ** 6), st.floats(0.001, 0.02))
def test_a_decided_word_turns_into_its_opposite_only_by_way_of_inconclusive(change, seed, spread):
    """Pair after pair, for a change that stays the same."""
    noise = random.Random(seed)
    pairs = [math.log(change) + noise.gauss(0, spread) for _ in range(16)]
    words = [decided(SIDE, pairs[:n]).word for n in range(2, 17)]
    assert "improved" not in words


@settings(deadline=None)  # a busy machine takes its time
@given(changes, st.dictionaries(st.sampled_from(sorted(GPU)), st.integers(0, 9)))
def test_the_unit_of_time_and_unchanged_counters_tell_nothing(pairs, counters):
    side = with_counter(**counters)
    assert decide(pairs, side, side, T) == decided(SIDE, pairs)


@settings(deadline=None)  # a busy machine takes its time
@given(st.dictionaries(st.sampled_from(sorted(GPU)), st.integers(0, 9)),
       st.dictionaries(st.sampled_from(sorted(GPU)), st.integers(0, 9)))
def test_counters_never_regress_both_ways_unless_something_rose_each_way(one, other):
    assume(one != other)
    a, b = with_counter(**one), with_counter(**other)
    forth, back = decided(b, base=a).word, decided(a, base=b).word
    gates = [name for name in GPU if name not in ("operators", "autograd_nodes")]
    if all(b.counters[name] <= a.counters[name] for name in gates):
        assert forth in ("ok", "improved")
    if forth == "improved":
        assert back != "improved"
