"""The chances of error that the settings claim, each seen in draws where it is large enough to be counted."""
from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from perf.policy.thresholds import ALARM_OF_A_RUN, Prior, Thresholds
from perf.tests.sides import SIDE, decided
from perf.verdict.intervals import critical, estimate
from perf.verdict.verdict import _word

# Nothing is ever ok, and no floor stands in the way of an alarm: only `alarm` does.
BARE = Thresholds(effect=1e-9, floor=0.0, confidence=0.8, alarm=0.05, least_pairs=2, most_pairs=16)


def words(t: Thresholds, noise: random.Random, draw) -> str:
    """Gives the word of one sequence, looked at after every pair."""
    pairs: list[float] = []
    while len(pairs) < t.most_pairs:
        pairs.append(draw(noise))
        if len(pairs) >= 2 and (word := _word(estimate(pairs), len(pairs), t)) != "inconclusive":
            return word
    return "inconclusive"


def test_alarm_is_the_chance_of_slower_and_of_faster_each():
    noise = random.Random(7000)
    results = [words(BARE, noise, lambda n: n.gauss(0, 0.01)) for _ in range(800)]
    for word in ("regressed", "improved"):
        assert 0 < results.count(word) / len(results) <= BARE.alarm


def test_many_benchmarks_share_one_runs_chance():
    """Runs of 20 unchanged benchmarks, at a chance 200 times that of a real run: any called slower in a fifth of them
    at most."""
    among = replace(BARE, alarm=200 * ALARM_OF_A_RUN / 20, confidence=0.9)
    noise = random.Random(7100)
    runs = [[words(among, noise, lambda n: n.gauss(0, 0.01)) for _ in range(20)] for _ in range(60)]
    slower = sum("regressed" in run for run in runs) / len(runs)
    assert 0 < slower <= 0.2
    assert Thresholds(alarm=1e-3).among(20).alarm == ALARM_OF_A_RUN / 20


@pytest.mark.parametrize("weight", [4.0, 15.0])
def test_an_interval_with_a_learned_spread_misses_no_more_often_than_stated(weight):
    """The benchmark's spread lies around the learned one as that many pairs leave it: inverse gamma."""
    noise, missed, sequences = random.Random(7200), 0, 600
    for _ in range(sequences):
        spread = 0.01 / math.sqrt(noise.gammavariate(weight / 2, 2 / weight))
        pairs: list[float] = []
        while len(pairs) < 16:
            pairs.append(noise.gauss(0, spread))
            seen = estimate(pairs, Prior(0.01, weight))
            if abs(seen.middle) > seen.half_width(0.1):
                missed += 1
                break
    assert 0 < missed / sequences <= 0.1


def test_a_learned_spread_is_worth_its_pairs_and_not_more():
    """The pairs themselves correct a spread that is far too small."""
    pairs = [0.05 * (-1) ** i for i in range(20)]
    assert estimate(pairs, Prior(0.001, 15)).spread > 0.03
    assert critical(20, 0.02, 0.0) > critical(20, 0.02, 15.0) > critical(20, 0.02, 1e6)


def test_one_bad_pair_makes_no_change_however_quiet_the_history():
    t = replace(Thresholds(), least_pairs=1, least_change=5, spread=0.002, weight=15.0)
    assert decided(SIDE, [0.3], t=t).word == "inconclusive"
    assert decided(SIDE, [0.001], t=t).word == "ok"
    assert decided(SIDE, [0.0, 0.0, 0.3, 0.0, 0.0], t=t).word != "regressed"
    assert decided(SIDE, [0.08] * 5, t=t).word == "regressed"
    assert decided(SIDE, [0.08] * 4, t=t).word == "inconclusive"


@pytest.mark.parametrize("settings", [{"least_pairs": 1}, {"weight": 5.0}, {"weight": -1.0, "spread": 0.01},
                                      {"least_change": 2.5}, {"rounds": -1}, {"rounds": 0.5}])
def test_learned_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"least_pairs|spread|least_change|rounds"):
        Thresholds(**settings)
