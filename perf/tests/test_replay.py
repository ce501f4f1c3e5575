"""Replay: pytest-benchmark shows the samples that were taken, and calls nothing to get them."""
from __future__ import annotations

import pytest

from perf.run.replay import Script

SAMPLES = (3e-3, 1e-3, 2e-3, 5e-4)


class Benchmark:
    """Is what `Script.play` needs of pytest-benchmark's fixture: two readings of the timer around each round."""

    def __init__(self, timer):
        self.timer, self.durations = timer, []

    def pedantic(self, target, rounds, iterations):
        for _ in range(rounds):
            start = self.timer()
            for _ in range(iterations):
                target()
            self.durations.append(self.timer() - start)
        target()  # as --benchmark-cprofile does


def test_the_samples_come_out_as_they_went_in():
    script, called = Script(), []
    benchmark = Benchmark(script)
    script.play(SAMPLES, benchmark, lambda: called.append(1))
    assert benchmark.durations == pytest.approx(SAMPLES)
    assert called == [1]  # outside the rounds alone


def test_the_next_workload_starts_anew():
    script = Script()
    for samples in (SAMPLES, (7.0,)):
        benchmark = Benchmark(script)
        script.play(samples, benchmark, lambda: None)
        assert benchmark.durations == pytest.approx(samples)
