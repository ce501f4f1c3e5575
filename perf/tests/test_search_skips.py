"""The search for a bad commit among commits that can't be measured."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.tests.bisection import World, levels, searched
from perf.verdict.search import Step
from perf.verdict.verdict import Verdict


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 64), st.sets(st.integers(1, 63), max_size=30), st.integers(0, 99))
def test_commits_that_do_not_import_are_skipped(first, broken, seed):
    world = World(levels(64, (first, 1.08)), broken=frozenset(broken), seed=seed)
    result = world.search()
    before = max((p for p in range(first) if p not in broken), default=0)
    after = min(p for p in range(first, 65) if p not in broken)
    assert result.steps == (Step(before, after),)
    assert result.unusable <= broken
    assert world.measured <= 8 + len(broken)
    assert all(world.asked[position] <= 1 for position in broken)  # asking again makes nothing import


def test_a_run_of_broken_commits_is_left_quickly():
    """30 broken ones in the middle, the step elsewhere: not all of them are tried."""
    world = World(levels(64, (5, 1.08)), broken=frozenset(range(20, 50)))
    result = world.search()
    assert result.steps == (Step(4, 5),)
    assert len(result.unusable) <= 10


@pytest.mark.parametrize("word", ["missing", "wrong", "new"])
def test_words_that_say_nothing_of_time_skip_a_commit(word):
    world = World(levels(64, (40, 1.08)))

    def measure(commit: str) -> Verdict | None:
        result = world.measure(commit)
        return Verdict(word, None, None, None, 0, "", 0) if commit == "32" else result

    result = searched(64, measure)
    assert result.steps == (Step(39, 40),)
    assert result.unusable == {32}
    assert world.asked[32] == 1


def test_an_end_that_cannot_be_measured():
    result = World(levels(8, (3, 1.2)), broken=frozenset({8})).search()
    assert (result.end, result.steps) == (None, ())
