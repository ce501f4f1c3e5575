"""The search for one bad commit: measurements that are clear, noisy, or show none at all."""
from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perf.tests.bisection import World, levels, searched
from perf.verdict.search import Step
from perf.verdict.verdict import Verdict


@pytest.mark.parametrize("level", [1.06, 2])
def test_one_step_takes_a_commit_and_the_halvings(level):
    for count in range(1, 65):
        for first in range(1, count + 1):
            world = World(levels(count, (first, level)), seed=first)
            result = world.search()
            assert result.steps == (Step(first - 1, first),)
            assert world.measured <= 1 + math.ceil(math.log2(count))
            assert world.asked.total() == world.measured  # clear measurements are not made twice
            assert result.end is not None
            assert result.end.word == "regressed"


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 64), st.integers(0, 999))
def test_an_inconclusive_step_is_measured_again_not_guessed(first, seed):
    world = World(levels(64, (first, 1.08)), spread=0.06, seed=seed)
    assert world.search().steps == (Step(first - 1, first),)
    assume(world.unclear)
    assert all(world.asked[position] > 1 for position in world.unclear)
    assert max(world.asked.values()) <= 3


def test_a_commit_that_stays_inconclusive_is_left_aside():
    """Those around the step give no answer however often they are asked: the answer is that range, not a guess."""
    world = World(levels(64, (40, 1.08)))

    def measure(commit: str) -> Verdict | None:
        result = world.measure(commit)
        return Verdict("inconclusive", 1.04, 0.9, 1.2, 5, "", 9) if int(commit) in (38, 39, 40, 41) else result

    assert searched(64, measure).steps == (Step(37, 42),)
    assert {world.asked[position] for position in (38, 39, 40, 41)} == {3}


@pytest.mark.parametrize("level", [1.0, 0.9, 1.01])
def test_no_regression_between_the_ends(level):
    world = World(levels(64, (30, level)))
    result = world.search()
    assert result.steps == ()
    assert result.end is not None
    assert result.end.word in ("ok", "improved")
    assert world.asked == {64: 1}


def test_an_end_that_stays_inconclusive_is_no_regression():
    result = searched(2, lambda commit: Verdict("inconclusive", 1.05, 0.9, 1.2, 5, "", 9))
    assert result.steps == ()
    assert result.end is not None
    assert result.end.word == "inconclusive"


def test_counters_alone_decide_where_the_time_says_nothing():
    """Launches rose at 7; the time fell before and after, which is no part of it."""
    def measure(commit: str) -> Verdict:
        ratio = 1 - 0.01 * (int(commit) // 3)
        return Verdict("regressed" if int(commit) >= 7 else "improved", ratio, ratio - 0.001, ratio + 0.001, 3, "", 0)

    assert searched(16, measure).steps == (Step(6, 7),)
