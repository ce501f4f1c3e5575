"""The host's seconds have a verdict of their own, in simulation and by workers that answer what they are told to."""
from __future__ import annotations

import math
import random
import time
from dataclasses import replace

import pytest
import torch

from perf.compare.inject import wrap
from perf.compare.pairs import compare
from perf.compare.record import Row
from perf.measure.clocks import launching
from perf.policy.thresholds import Thresholds
from perf.tests import fake_sides
from perf.tests.fake_sides import SMALL, Sides, log
from perf.tests.sides import SIDE, around, decided
from perf.verdict.causes import HOST
from perf.verdict.judgement import Judgement, with_host
from perf.verdict.verdict import Verdict

H200 = Thresholds(floor=0.005, spread=0.0015, weight=2.0, correlation=0.22)
sides = fake_sides.sides


def simulated(slower: float, spread: float, rng: random.Random) -> Verdict:
    """Judges pairs whose GPU time is the same and whose host's seconds are not."""
    one = Judgement(H200)
    while not one.done:
        one.ratios.append(rng.gauss(0, 0.0015))
        one.host_ratios.append(rng.gauss(math.log1p(slower), spread))
    return one.verdict()


@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_30_percent_more_python_is_a_regression_of_the_host(spread):
    rng = random.Random(16)
    found = [simulated(0.3, spread, rng) for _ in range(40)]
    assert {(v.word, v.cause) for v in found} == {("regressed", HOST)}
    assert found[0].why.startswith("launching: ")
    assert "the GPU: " in found[0].why
    assert Row(SMALL, found[0], found[0].word).label == "regressed (host)"


def test_the_same_python_is_no_regression():
    rng = random.Random(16)
    found = [simulated(0.0, spread, rng) for spread in (0.02, 0.05, 0.1) for _ in range(40)]
    assert {v.word for v in found} == {"ok"}


def test_a_noisy_host_leaves_the_time_its_word():
    timed = decided(SIDE, around(0.0, 0.001))
    unclear = with_host(timed, [0.3, -0.3, 0.4], H200)
    assert unclear.word == "ok"
    assert "would decide" in unclear.why
    assert with_host(timed, [], H200) is timed
    wrong = replace(timed, word="wrong")
    assert with_host(wrong, [1.0] * 9, H200) is wrong
    slower = decided(SIDE, around(0.2, 0.001))
    assert with_host(slower, [0.3] * 9, H200).cause is None  # of the GPU's own time


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(("host", "head_host", "label"), [
    (0.05, 0.065, "regressed (host)"), (0.05, 0.05, "ok"), (0.01, 0.013, "ok"), (None, None, "ok")])
def test_a_host_that_takes_longer_than_its_gpu_is_compared(sides: Sides, host: float | None, head_host: float | None,
                                                           label: str) -> None:
    """Launching is no part of what a user waits for where the GPU, at 0.02 s, takes longer."""
    base, head = sides({"host": host}, {"host": head_host})
    [(w, verdict)] = compare([SMALL], base, head, "cpu", lambda w: H200, 60.0)
    assert Row(w, verdict, verdict.word).label == label
    assert any(entry[1] == "launches" for entry in log(base)) == (host == 0.05)


def test_launching_waits_for_the_device_before_each_call():
    order: list[str] = []
    seconds = launching(lambda: order.append("call"), lambda: order.append("wait"), times=2)
    assert order == ["wait", "call", "wait", "call", "wait"]
    assert len(seconds) == 2
    assert all(one >= 0 for one in seconds)


def test_more_python_is_planted_by_its_share():
    def call() -> torch.Tensor:
        until = time.process_time() + 0.004
        while time.process_time() < until:
            pass
        return torch.ones(1)

    slower, start = wrap(call, "host:100%"), time.process_time()
    slower()
    assert time.process_time() - start >= 0.008
