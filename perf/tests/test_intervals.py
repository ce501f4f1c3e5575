"""The interval of launch pairs: its formula, its trimming, and that looking often does not break it."""
from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.verdict.intervals import FINEST, PART, PRIOR, Estimate, critical, estimate

NORMAL_99 = 2.576
ratios = st.floats(-1, 1)
pairs = st.lists(ratios, min_size=2, max_size=40)


def bayes_factor(t: float, n: int) -> float:
    """Computes the Bayes factor as its authors write it."""
    grown = 1 + n * PRIOR
    return grown ** -0.5 * ((1 + t * t / (n - 1)) / (1 + t * t / ((n - 1) * grown))) ** (n / 2)


def student(t: float, freedom: int) -> float:
    """Returns the density of Student's t."""
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(log - (freedom + 1) / 2 * math.log1p(t * t / freedom))


@pytest.mark.parametrize("n", [3, 5, 12, 32])
def test_the_bayes_factor_is_1_on_average_where_nothing_changed(n):
    step = 1e-3  # of s, where t = tan(s)
    total = sum(bayes_factor(math.tan(s), n) * student(math.tan(s), n - 1) / math.cos(s) ** 2 * step
                for s in (step * (i + 0.5) - math.pi / 2 for i in range(int(math.pi / step))))
    assert total == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("n", [4, 5, 8, 32])
@pytest.mark.parametrize("error", [0.02, 0.2])
def test_the_critical_t_is_where_the_bayes_factor_reaches_one_over_the_error(n, error):
    assert bayes_factor(critical(n, error), n) == pytest.approx(1 / error)


def test_critical_by_hand():
    """n = 4, error 0.02, g = 20: r = 81; K = (9 / 0.02)^(1/2) = 21.2132; t^2 = 3 * 20.2132 / (1 - 21.2132 / 81)."""
    assert PRIOR == 20
    assert critical(4, 0.02) == pytest.approx(math.sqrt(3 * 20.2132 / 0.738109), rel=1e-4)


def test_too_few_pairs_tell_nothing_with_so_small_an_error():
    assert critical(3, 2e-4) == math.inf
    assert critical(4, 2e-4) == math.inf
    assert critical(5, 2e-4) < 40
    assert Estimate(0.0, 0.01, 3).half_width(2e-4) == math.inf


def test_an_estimate_by_hand():
    """Nothing is trimmed: the mean is 0.02, the deviations are -0.01, 0 and 0.01."""
    result = estimate([0.03, 0.01, 0.02])
    assert (result.middle, result.spread, result.kept) == (pytest.approx(0.02), pytest.approx(0.01), 3)
    assert result.half_width(0.2) == pytest.approx(0.01 / math.sqrt(3) * critical(3, 0.2))


def test_a_trimmed_estimate_by_hand():
    """0 to 9, without 0 and 9: mean 4.5; Winsorized 1 1 2 3 4 5 6 7 8 8: squares about the mean sum to 66.5."""
    result = estimate([i / 100 for i in range(10)])
    assert result.kept == 8
    assert result.middle == pytest.approx(0.045)
    assert result.spread == pytest.approx(0.01 * math.sqrt(66.5 / 7))


def test_a_spike_hardly_moves_what_is_trimmed():
    noise = random.Random(1)
    clean = [noise.gauss(0, 0.01) for _ in range(12)]
    spiked = [*clean[:-1], 0.4]
    assert abs(estimate(spiked).middle - estimate(clean).middle) < 0.005
    assert estimate(spiked).spread < 2 * estimate(clean).spread
    assert statistics.stdev(spiked) > 8 * statistics.stdev(clean)


@settings(deadline=None)  # a busy machine takes its time
@given(pairs, st.floats(-0.5, 0.5))
def test_a_shift_moves_the_middle_alone(found, shift):
    one, other = estimate(found), estimate([ratio + shift for ratio in found])
    assert other.middle == pytest.approx(one.middle + shift, abs=1e-9)
    assert other.spread == pytest.approx(one.spread, abs=1e-9)


@settings(deadline=None)  # a busy machine takes its time
@given(pairs, st.floats(0.5, 20))
def test_scale(found, factor):
    one, other = estimate(found), estimate([ratio * factor for ratio in found])
    assert other.middle == pytest.approx(one.middle * factor, abs=1e-9)
    if min(one.spread, one.spread * factor) > FINEST:
        assert other.spread == pytest.approx(one.spread * factor)


@settings(deadline=None)  # a busy machine takes its time
@given(pairs, st.randoms())
def test_the_order_of_pairs_and_the_names_of_the_sides_tell_nothing(found, shuffler):
    mixed = found[:]
    shuffler.shuffle(mixed)
    swapped = estimate([-ratio for ratio in found])
    assert estimate(mixed) == estimate(found)
    assert (swapped.middle, swapped.spread) == (pytest.approx(-estimate(found).middle),
                                                pytest.approx(estimate(found).spread))


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(4, 200), st.floats(1e-6, 0.2), st.floats(1.01, 10))
def test_less_error_is_wider(n, error, factor):
    assert critical(n, error / factor) > critical(n, error) or critical(n, error / factor) == math.inf


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(4, 200), st.floats(1e-3, 0.2))
def test_a_pair_more_of_the_same_spread_is_narrower_unless_two_are_trimmed(n, error):
    seen = Estimate(0.0, 0.01, n)
    if (n + 1) % PART and seen.half_width(error, n) < math.inf:
        assert seen.half_width(error, n + 1) < seen.half_width(error, n)


def test_agreeing_pairs_are_not_believed_to_be_exact():
    assert estimate([0.01] * 5).spread == FINEST


@pytest.mark.parametrize(("bad", "why"), [([], "0 launch pairs"), ([0.1], "1 launch pairs"),
                                          ([0.1, math.nan], "log ratio 2 of 2 is nan"),
                                          ([-math.inf, 0.1], "log ratio 1 of 2 is -inf")])
def test_what_is_no_evidence_is_refused_in_one_line(bad, why):
    with pytest.raises(ValueError, match=why) as refusal:
        estimate(bad)
    assert "\n" not in str(refusal.value)


def missed(draw, half_width, sequences: int, most: int = 32) -> float:
    """Returns the part of sequences whose interval misses 0 at any look."""
    noise = random.Random(9000)
    count = 0
    for _ in range(sequences):
        results = [draw(noise) for _ in range(most)]
        for n in range(3, most + 1):
            seen = estimate(results[:n])
            if abs(seen.middle) > half_width(seen):
                count += 1
                break
    return count / sequences


def t_of_3(noise: random.Random) -> float:
    return noise.gauss(0, 0.01) / math.sqrt(noise.gammavariate(1.5, 2) / 3)


def spiked(noise: random.Random) -> float:
    return noise.gauss(0, 0.01) + (noise.random() < 0.1) * noise.uniform(-0.3, 0.3)


@pytest.mark.parametrize("draw", [lambda noise: noise.gauss(0, 0.01), t_of_3, spiked])
def test_looking_at_every_pair_misses_no_more_often_than_stated(draw):
    assert 0 < missed(draw, lambda seen: seen.half_width(0.1), 600) <= 0.1


def test_an_interval_for_one_look_would_miss_far_more_often():
    def one_look(seen: Estimate) -> float:
        return NORMAL_99 * seen.spread / seen.kept ** 0.5

    assert missed(lambda noise: noise.gauss(0, 0.01), one_look, 300) > 0.1
