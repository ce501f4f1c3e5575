"""Tests what history teaches, and the promises and settings that follow from it."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.policy.thresholds import Prior, Thresholds
from perf.verdict.intervals import critical, estimate
from perf.verdict.learn import (
    AUDITED,
    FEWEST,
    FEWEST_ROUNDS,
    FLOOR,
    LADDER,
    MOST_ROUNDS,
    Difference,
    audits,
    certify,
    layout_spread,
    pair_spread,
    plan,
    rounds_of_pair,
    with_rounds,
)

T = Thresholds()


def compared(layout: float, count: int, error: float = 0.003, benchmarks: int = 50, seed: int = 0) -> list[Difference]:
    noise = np.random.default_rng(seed)
    middles = noise.normal(0, math.hypot(math.sqrt(2) * layout, error), count)
    return [Difference(i % benchmarks, float(middle), error, True) for i, middle in enumerate(middles)]


def test_a_pair_spreads_as_two_launches_differ():
    passes = np.random.default_rng(0).normal(0, 0.01, (2000, 3, 2))
    assert pair_spread(passes) == pytest.approx([0.01 * math.sqrt(2)] * 3, rel=0.08)


@pytest.mark.parametrize("layout", [0.003, 0.01])
def test_the_layout_spread_is_learned_from_above(layout):
    result = layout_spread(compared(layout, 300), 50)
    assert (result >= 0.9 * layout).all()
    assert np.median(result) < 1.5 * layout
    assert np.median(layout_spread(compared(layout, 3000), 50)) < 1.2 * layout


def test_before_there_are_audits_enough_nothing_is_known():
    assert np.isinf(layout_spread(compared(0.003, FEWEST - 1), 50)).all()
    of_suspects = [Difference(1, 0.0, 0.003, False)] * 500
    assert np.isinf(layout_spread(of_suspects, 50)).all()
    assert certify(T, 0.01, math.inf) is None
    assert certify(T, math.nan, 0.003) is None


def test_own_comparisons_raise_a_benchmarks_layout_and_never_lower_it():
    usual = compared(0.003, 300)
    wide = [Difference(7, middle, 0.002, False) for middle in (0.02, -0.025, 0.018, -0.02)]
    still = [Difference(8, 0.0, 0.002, False)] * 20
    before, after = layout_spread(usual, 50), layout_spread(usual + wide + still, 50)
    assert after[7] > 2.5 * before[7]
    assert after[8] == after.min() > 0.003


def test_a_wild_comparison_does_not_make_the_usual_layout():
    wild = compared(0.003, 300) + [Difference(49, 1.0, 0.003, True)] * 3
    assert np.median(layout_spread(wild, 50)) < 1.25 * np.median(layout_spread(compared(0.003, 300), 50))


def test_each_quiet_benchmark_is_audited_once_in_its_turn():
    pair = np.array([*np.linspace(0.01, 0.02, 90), np.nan])
    turns = [one for night in range(AUDITED) for one in audits(night, pair)]
    assert sorted(turns) == list(range(30))
    assert not audits(0, np.full(3, np.nan))


def test_rounds_follow_what_spreads():
    quiet_launch, noisy_rounds = np.array([0.03]), np.array([0.05])
    assert rounds_of_pair(quiet_launch, np.array([0.001]), 5)[0] == FEWEST_ROUNDS
    assert FEWEST_ROUNDS < rounds_of_pair(np.array([0.0396]), noisy_rounds, 5)[0] <= MOST_ROUNDS
    assert with_rounds(np.array([0.02]), np.array([0.01]), 5, np.array([5]))[0] == pytest.approx(0.02)


def test_what_is_learned_narrows_the_interval_of_few_pairs():
    """The figures by hand, for n = 1, 15 learned, error 0.1 and g = 20, are r = 21, needed = (sqrt(21) / 0.1)^(2/16) =
    1.6133 and t^2 = 15 * 0.6133 / (1 - 1.6133 / 21)."""
    assert critical(1, 0.1, 15) == pytest.approx(math.sqrt(15 * 0.6133 / (1 - 1.6133 / 21)), rel=1e-3)
    assert critical(5, 0.02, 15) < critical(5, 0.02)
    one = estimate([0.01], Prior(0.02, 15))
    assert (one.middle, one.spread) == (0.01, pytest.approx(0.02))
    with pytest.raises(ValueError, match="1 launch pairs"):
        estimate([0.01])


def test_the_learned_spread_is_mixed_with_that_of_the_pairs():
    """15 pairs' worth of 2 %, and two that differ by 6 %: (15 * 4 + 18) / 16 in squared percent."""
    assert estimate([0.0, 0.06], Prior(0.02, 15)).spread == pytest.approx(0.01 * math.sqrt(78 / 16))


def test_a_promise_by_hand():
    assert certify(T, 0.01, 0.003) == 0.05
    assert certify(T, 0.01, 0.01) in (0.08, 0.10)  # the floor alone is 3.6 %, 5 % can't be promised
    assert plan(T, 0.01, 0.003).promise == "detects 5 % first night"
    assert "nothing for certain" in plan(T, 0.01, math.inf).promise


def test_the_floor_follows_the_layout():
    assert plan(T, 0.01, 0.001).thresholds.floor == T.floor
    assert plan(T, 0.01, 0.006).thresholds.floor == pytest.approx(math.expm1(FLOOR * math.sqrt(2) * 0.006))


def test_a_strong_suspect_is_cleared_of_less():
    weak, strong = (plan(T, 0.01, 0.003, strong=strong).thresholds for strong in (False, True))
    assert (weak.effect, strong.effect) == (0.05, pytest.approx(0.03))
    assert weak.least_pairs == 1
    assert weak.least_change == 5


@settings(deadline=None)
@given(st.floats(1e-4, 0.3), st.floats(1e-4, 0.1), st.floats(1, 3), st.booleans())
def test_more_noise_promises_no_more(pair, layout, factor, strong):
    one = certify(T, pair, layout) or math.inf
    assert (certify(T, pair * factor, layout) or math.inf) >= one
    assert (certify(T, pair, layout * factor) or math.inf) >= one
    assert one == math.inf or one in LADDER
    plan(T, pair, layout, strong=strong)  # settings that make sense


@settings(deadline=None)
@given(st.floats(0.001, 0.6))
def test_no_promise_below_what_matters(effect):
    coarse = Thresholds(effect=effect, floor=min(0.0125, effect / 2))
    assert (certify(coarse, 0.001, 0.0005) or effect) >= effect
