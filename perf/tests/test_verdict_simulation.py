"""How often the verdict errs in a simulated world, and how many pairs it takes. Seeds the rules were not tuned on."""
from __future__ import annotations

import pytest

from perf.tests.simulation import World, fixed_errors, ours, score
from perf.verdict.verdict import Thresholds

WORLDS = {"cpu": World("cpu"), "gpu": World("gpu")}
DRIFTING = {name: World(name, layout=0.003) for name in WORLDS}
RULE = ours(Thresholds())


@pytest.mark.parametrize("world", DRIFTING)
def test_nothing_changed(world):
    found = score(DRIFTING[world], RULE, comparisons=600)
    assert found.words["regressed"] == found.words["improved"] == 0
    assert found.share("ok") > 0.99
    assert sum(found.pairs) / 600 < 8


@pytest.mark.parametrize("world", WORLDS)
def test_5_percent_is_found(world):
    found = score(WORLDS[world], RULE, comparisons=400, injected=0.05)
    assert found.share("regressed") >= 0.985
    assert sum(found.pairs) / 400 < 13


@pytest.mark.parametrize("world", WORLDS)
def test_10_percent_is_found_soon(world):
    found = score(WORLDS[world], RULE, comparisons=200, injected=0.1)
    assert found.share("regressed") == 1
    assert sum(found.pairs) / 200 < 9


def test_faster_is_found_as_slower_is():
    found = score(WORLDS["cpu"], RULE, comparisons=200, injected=1 / 1.1 - 1)
    assert found.share("improved") == 1


def test_a_machine_that_others_use_too_raises_no_alarm():
    found = score(World(hum=0.1), RULE, comparisons=200)
    assert found.words["regressed"] == found.words["improved"] == 0
    rule_of_fixed_errors = score(World(hum=0.1), fixed_errors, comparisons=200)
    assert rule_of_fixed_errors.words["regressed"] > 0  # so that the world can raise one


def test_many_benchmarks_do_not_lose_much():
    found = score(WORLDS["gpu"], ours(Thresholds().among(300)), comparisons=200, injected=0.05)
    assert found.share("regressed") >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("world", DRIFTING)
def test_at_most_one_false_alarm_in_10000_comparisons(world):
    """None in 30,000 bounds the rate by 1 in 10,000 with 95 % confidence."""
    found = score(DRIFTING[world], RULE, comparisons=30_000, seed=6000)
    assert found.words["regressed"] == found.words["improved"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_99_percent_of_5_percent_are_found(world):
    found = score(WORLDS[world], RULE, comparisons=10_000, injected=0.05, seed=6000)
    assert found.share("regressed") >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("hum", [0.03, 0.05, 0.1, 0.3])
def test_no_spread_makes_it_cry_wolf(hum):
    found = score(World(hum=hum), RULE, comparisons=5000, seed=6000)
    assert found.words["regressed"] + found.words["improved"] <= 3  # of 2 in 10,000 expected at most
