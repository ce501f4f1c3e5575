"""The search for what is left of a regression: a second step, or a repair in part."""
from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from perf.tests.bisection import World, levels, searched
from perf.tests.sides import span
from perf.verdict.search import Step
from perf.verdict.verdict import Verdict


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.floats(0.06, 0.3), st.floats(0.5, 2),
       st.integers(0, 99))
def test_two_steps_are_both_named(positions, size, relative, seed):
    first, second = sorted(positions)
    world = World(levels(64, (first, 1 + size), (second, 1 + size + size * relative)), seed=seed)
    assert world.search().steps == (Step(first - 1, first), Step(second - 1, second))


def test_two_steps_each_below_what_matters():
    """3.4 % twice: only both together are regressed, both are named."""
    world = World(levels(64, (20, 1.034), (50, 1.069)), spread=0.004)

    def measure(commit: str) -> Verdict | None:
        result = world.measure(commit)
        assert result is not None
        return result if span(result)[0] > 1.05 else replace(result, word="ok")

    assert searched(64, measure).steps == (Step(19, 20), Step(49, 50))


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.integers(0, 999))
def test_the_second_of_two_steps_is_measured_again_too(positions, seed):
    """At first an interval spans both levels: it tells neither where it is, and is not taken for either."""
    first, second = sorted(positions)
    world = World(levels(64, (first, 1.15), (second, 1.2)), spread=0.03, seed=seed)
    sharp = World(world.levels, spread=0.002)
    known = {64: sharp.measure("64")}  # the end is known well: there is a second part

    def measure(commit: str) -> Verdict | None:
        return known.get(int(commit)) or world.measure(commit)

    result = searched(64, measure)
    assert {Step(first - 1, first)} <= {*result.steps} <= {Step(first - 1, first), Step(second - 1, second)}


def test_a_small_part_is_not_searched_for():
    """The small part is 0.4 % of 10 %, though certain."""
    world = World(levels(64, (10, 1.004), (40, 1.1), (60, 1.096)), spread=0.0005)
    assert world.search().steps == (Step(39, 40),)
    assert world.asked.total() == 7


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.integers(0, 99))
def test_a_repair_in_part_is_named_with_its_regression(positions, seed):
    first, second = sorted(positions)
    world = World(levels(64, (first, 1.2), (second, 1.1)), seed=seed)
    assert world.search().steps == (Step(first - 1, first), Step(second - 1, second))


def test_what_was_repaired_whole_is_no_part_of_a_later_regression():
    world = World(levels(64, (10, 1.2), (20, 1.0), (40, 1.1)))
    assert world.search().steps == (Step(39, 40),)


def test_a_regression_partly_hidden_before_the_first_bad_commit():
    """+10 %, repaired to +3.5 % (which is ok), then +8 %: the bisection lands on the last, and looks back."""
    world = World(levels(64, (5, 1.10), (30, 1.035), (50, 1.08)))

    def measure(commit: str) -> Verdict | None:
        result = world.measure(commit)
        assert result is not None
        return replace(result, word="ok") if span(result)[2] < 1.045 else result

    assert searched(64, measure).steps == (Step(4, 5), Step(29, 30), Step(49, 50))
