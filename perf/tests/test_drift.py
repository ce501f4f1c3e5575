"""Changes in a history: found where they are, when they are there, and nowhere else."""
from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perf.tests import drift_comparison as comparison
from perf.verdict import drift
from perf.verdict.drift import creep, steps


def history(*levels, sigma=0.01, seed=0):
    """Nights at each (nights, level), with noise."""
    noise = random.Random(seed)
    return [level * math.exp(sigma * noise.gauss(0, 1)) for nights, level in levels for _ in range(nights)]


def test_a_step_is_found_at_its_night():
    (result,) = steps(history((30, 1.0), (20, 1.05)))
    assert result.at == 30
    assert result.ratio == pytest.approx(1.05, abs=0.01)


def test_several_levels_up_and_down():
    result = steps(history((30, 1.0), (20, 1.1), (20, 1.05), (20, 1.2)))
    assert [change.at for change in result] == [30, 50, 70]
    assert [change.ratio > 1 for change in result] == [True, False, True]


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_step(seed):
    assert steps(history((90, 1.0), seed=seed)) == []
    assert creep(history((90, 1.0), seed=seed)) is None


def test_spikes_and_single_nights_are_no_step():
    values = history((60, 1.0))
    for night, factor in ((10, 1.3), (25, 0.7), (40, 2.0), (59, 1.5)):
        values[night] *= factor
    assert steps(values) == []


def test_a_step_shows_after_a_few_nights_and_not_the_first():
    values = history((40, 1.0), (10, 1.1))
    first = next(nights for nights in range(41, 51) if steps(values[:nights]))
    assert 40 + drift.SHORTEST <= first <= 45


def test_a_count_steps_at_its_first_change_and_zero_may_be_before():
    assert [(change.at, change.before, change.after) for change in steps([4] * 9 + [5] * 3)] == [(9, 4, 5)]
    (result,) = steps([0] * 10 + [3] * 5)
    assert (result.at, result.ratio) == (10, math.inf)
    assert steps([7] * 50) == []
    assert steps([0] * 50) == []


def test_nights_without_a_number_are_passed_over():
    values: list[float | None] = [*history((30, 1.0), (20, 1.1))]
    values[3] = values[28] = values[29] = values[31] = None
    (result,) = steps(values)
    assert result.at == 30
    assert steps([None] * 40) == []
    assert creep([None] * 40) is None
    assert steps([]) == []


def test_a_change_too_small_to_matter_is_none():
    values = history((40, 1.0), (40, 1.004), sigma=0.0005)
    assert steps(values) == []
    assert [change.at for change in steps(values, least=0.001)] == [40]


def test_a_creep_too_slow_for_a_step_is_found_by_a_window():
    noise = random.Random(3)
    values = [1 + 0.001 * max(0, night - 30) + 0.004 * noise.gauss(0, 1) for night in range(60)]
    result = creep(values)
    assert result is not None
    assert result.ratio > 1.01
    assert result.nights in drift.RECENT
    assert creep(values[:33]) is None
    assert creep([2 - value for value in values]) is None  # it got faster


def test_creep_needs_both_windows():
    assert creep(history((36, 1.0))) is None
    assert creep([*history((30, 1.0)), *history((7, 1.2))]) is not None


VALUES = st.lists(st.floats(-5, 5), min_size=6, max_size=24)


def cost_of(x, starts):
    total = 0.0
    for a, b in zip(starts, [*starts[1:], len(x)], strict=True):
        mean = sum(x[a:b]) / (b - a)
        total += sum((value - mean) ** 2 for value in x[a:b])
    return total


@settings(max_examples=60, deadline=None)
@given(VALUES, st.floats(0.5, 20))
@example([0.0, 0.0, 3.75, 0.0, -1.0, 0.0, 0.0, -4.0], 1.0)  # pruned too early, another one was taken
def test_the_partition_is_the_cheapest(x, penalty):
    """Against all partitions into levels long enough, one by one."""
    best = {0: -penalty}
    for end in range(drift.SHORTEST, len(x) + 1):
        best[end] = min(best[a] + cost_of(x[a:end], [0]) + penalty for a in best if a <= end - drift.SHORTEST)
    starts = drift._partition(x, penalty)
    assert cost_of(x, starts) + penalty * (len(starts) - 1) == pytest.approx(best[len(x)], abs=1e-6)
    assert all(b - a >= drift.SHORTEST for a, b in zip(starts, [*starts[1:], len(x)], strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_units_do_not_matter(seed, unit):
    values = comparison.history(comparison.WORLDS[2], str(seed))
    scaled = [value and value * unit for value in values]
    assert [change.at for change in steps(values)] == [change.at for change in steps(scaled)]


def test_in_the_simulated_world_it_finds_more_than_it_cries_wolf():
    """A small draw of docs/drift.md, on seeds of its own."""
    of_ours = {world.name: comparison.score("ours", comparison.ours(), world, histories=5, seed=77)
               for world in (comparison.WORLDS[0], comparison.WORLDS[3])}
    assert of_ours["nothing"].false == 0
    assert of_ours["step 10 %"].detected[7] >= 0.9
