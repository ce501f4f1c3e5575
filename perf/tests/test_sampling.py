"""Sampling: when it ends, what its interval holds, and that it looks at the machine between chunks."""
from __future__ import annotations

import gc
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.measure.clocks import CpuClock, Plan
from perf.measure.sampling import FEWEST, median_interval, sample


class Timer:
    """Ticks: each round takes what `next_round` says."""

    def __init__(self, next_round):
        self.now, self.inside, self.next_round = 0.0, False, next_round

    def __call__(self):
        if self.inside:
            self.now += self.next_round()
        self.inside = not self.inside
        return self.now


class Script(CpuClock):
    """Is a clock whose readings are made up."""

    budget = 0.2

    def __init__(self, next_round):
        self.timer = Timer(next_round)


def plan(iterations: int = 1, seconds: float = 0.005) -> Plan:
    return Plan(lambda: None, 10, iterations, None, seconds, "script")


def test_it_ends_as_soon_as_the_median_is_known():
    result = sample(Script(lambda: 1.0), plan(), precision=0.01)
    assert result.ended == "precision"
    assert FEWEST <= len(result.seconds) <= FEWEST + 5  # a chunk
    assert (result.median, result.interval) == (1.0, 0.0)


def test_noise_ends_it_by_the_budget():
    noise = random.Random(0)
    result = sample(Script(lambda: noise.uniform(1, 2)), plan(), precision=0.001)
    assert result.ended == "budget"
    assert len(result.seconds) == Script.most
    assert result.interval > 0.001


def test_a_wider_precision_takes_fewer_samples():
    def rounds(precision: float) -> int:
        noise = random.Random(0)
        return len(sample(Script(lambda: noise.gauss(1, 0.02)), plan(), precision=precision).seconds)

    assert rounds(0.02) < rounds(0.003)


def test_a_sample_is_the_time_of_one_call():
    result = sample(Script(lambda: 6.0), plan(iterations=3), precision=0.01)
    assert result.median == 2.0


def test_the_machine_is_looked_at_between_chunks_only():
    looks = []
    timer = Timer(lambda: 1.0)
    clock = Script(lambda: 1.0)
    clock.timer = timer
    sample(clock, plan(seconds=0.005), precision=0.01, watch=lambda: looks.append(timer.now))
    assert looks == [5, 10]  # seconds, one a round


def test_garbage_waits():
    seen = []

    def round_():
        seen.append(gc.isenabled())
        return 1.0

    gc.enable()  # a worker that another test planned in this process leaves it off
    sample(Script(round_), plan(), precision=0.01)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_a_real_call_is_timed():
    clock = CpuClock()
    result = sample(clock, clock.prepare(lambda: sum(range(1000))), precision=0.05)
    assert 1e-6 < result.median < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 300), st.integers(0, 1000))
def test_the_interval_is_the_binomial_one(n: int, seed: int):
    """The ranks left out at either end are the most for which the ends still enclose the median with 95 %."""
    numbers = random.Random(seed)
    seconds = [numbers.gauss(10, 1) for _ in range(n)]
    width = 2 * median_interval(seconds) * statistics.median(seconds)
    ordered = sorted(seconds)
    rank = next(k for k in range(n) if math.isclose(ordered[n - 1 - k] - ordered[k], width))
    below = [sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n for k in (rank, rank + 1)]
    assert below[0] <= 0.025 < below[1]


def test_the_interval_holds_the_median_as_often_as_it_says():
    numbers, held = random.Random(0), 0
    for _ in range(1000):
        seconds = sorted(math.exp(numbers.gauss(0, 0.1)) for _ in range(25))
        half = median_interval(seconds) * statistics.median(seconds)
        held += abs(statistics.median(seconds) - 1.0) <= 2 * half
    assert held >= 950


@pytest.mark.parametrize("few", [[1.0], [1.0, 1.1], [1.0, 1.1, 1.2, 1.3, 1.4]])
def test_of_few_samples_it_is_all_there_is(few):
    interval = median_interval(few)
    assert interval == (math.inf if len(few) == 1 else pytest.approx((few[-1] - few[0]) / 2 / statistics.median(few)))
