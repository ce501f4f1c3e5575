"""Injected faults: each does what its name says, and shows in the counters that are meant to catch it."""
from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from perf.compare import inject
from perf.compare.inject import CYCLES, calibrate, cycle, named, parse, wrap
from perf.measure.counters import count

CPU = torch.device("cpu")
x = torch.randn(64, 64)


def call() -> torch.Tensor:
    return x @ x


def changed(spec: str) -> dict[str, int]:
    """Returns the counters that the fault changes, after a call that warms it up."""
    faulty = wrap(call, spec)
    faulty()
    before, after = count(call, CPU).counters, count(faulty, CPU).counters
    return {name: after[name] - before[name] for name in after if after[name] != before.get(name, 0)}


def test_a_slower_call_counts_as_the_same():
    assert changed("slow:50%") == {}


def test_launches_are_counted():
    assert changed("clone")["operators"] >= 1
    assert changed("unfused")["operators"] > changed("clone")["operators"]
    assert changed("sync")["operators"] >= 1


def test_each_call_recompiles():
    faulty = wrap(call, "recompile")
    for _ in range(12):  # more often than torch.compile's limit
        faulty()
        assert count(faulty, CPU).counters["recompiles"] == 1


def test_results_stay_what_they_are():
    for spec in ("slow:1%", "clone", "unfused", "recompile", "sync"):
        assert torch.equal(wrap(call, spec)(), call()), spec
    several = wrap(lambda: {"out": (call(), None, 3)}, "clone")()
    assert torch.equal(several["out"][0], call())
    assert several["out"][1:] == [None, 3]
    given = call()
    assert wrap(lambda: given, "clone")() is not given
    assert wrap(lambda: given, "sync")() is given


def test_a_slow_call_takes_its_share_longer(monkeypatch):
    """The clock moves 1 ms with each look, and 40 ms with the call."""
    now = itertools.count()
    state = {"ahead": 0.0}
    watch = SimpleNamespace(process_time=lambda: state["ahead"] + next(now) * 1e-3)
    monkeypatch.setattr(inject, "time", watch)

    def work() -> None:
        state["ahead"] += 0.040

    slow = wrap(work, "slow:50%")
    start = watch.process_time()
    slow()
    assert watch.process_time() - start == pytest.approx(1.5 * 0.041 + 0.002, abs=0.002)  # looks included


@pytest.mark.parametrize(("spec", "share"), [("slow:5%", 0.05), ("slow:0.02", 0.02), (" slow: 2.5% ", 0.025)])
def test_specs(spec, share):
    assert parse(spec) == ("slow", pytest.approx(share))


@pytest.mark.parametrize(("spec", "said"), [
    ("fast", "unknown fault 'fast'; choose from slow:5%, host:30%, clone, unfused, recompile, sync"),
    ("clone:5%", "unknown fault 'clone:5%'; choose from slow:5%, host:30%, clone"),
    ("slow", "'' is no share of a call's time"), ("slow:x%", "'x%' is no share"), ("slow:-5%", "'-5%' is no share"),
    ("slow:0", "'0' is no share"), ("slow:nan", "'nan' is no share")])
def test_an_impossible_spec_is_one_line(spec, said):
    with pytest.raises(ValueError, match="fault") as refusal:
        wrap(call, spec)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


RATE = 0.6e-9  # seconds a cycle


def gpu(alone: float, launch: float):
    """Returns the time of a call followed by a kernel that is busy for some cycles, on a GPU with such a launch."""
    return lambda cycles: alone + (launch + cycles * RATE if cycles else 0.0)


@pytest.mark.parametrize(("share", "alone"), [*itertools.product([0.02, 0.05, 0.1], [100e-6, 1e-3, 50e-3])])
def test_the_launch_is_part_of_the_slowdown(share, alone):
    seconds = gpu(alone, launch=1.5e-6)
    cycles = calibrate(seconds, share, cycle(seconds))
    assert seconds(cycles) / alone == pytest.approx(1 + share, abs=0.1 * share)


def test_a_slowdown_smaller_than_a_launch_is_refused():
    with pytest.raises(ValueError, match=r"0.65 us more can't be added to a call of 13 us here, a launch takes 1.5 us"):
        calibrate(gpu(13e-6, launch=1.5e-6), 0.05, RATE)


def test_a_time_that_follows_no_cycles_is_refused():
    with pytest.raises(ValueError, match="doesn't follow"):
        cycle(lambda cycles: 1e-3)


def test_a_call_that_is_slower_after_the_first_look_is_borne():
    looks = itertools.count()

    def seconds(cycles: int) -> float:
        return gpu(1.03e-3 if next(looks) else 1e-3, launch=1e-6)(cycles)

    assert 1e-6 + RATE * calibrate(seconds, 0.01, RATE) == pytest.approx(10.3e-6, rel=0.1)


def test_a_cycle_is_learnt_beyond_any_launch():
    seen = []

    def seconds(cycles: int) -> float:
        seen.append(cycles)
        return gpu(1e-3, 5e-6)(cycles)

    assert cycle(seconds) == pytest.approx(RATE)
    assert seen == [2 * CYCLES, CYCLES]


def test_each_benchmark_may_have_a_fault_of_its_own():
    faults = '{"one": "slow:5%", "two": "clone"}'
    assert [named(faults, name) for name in ("one", "two", "three")] == ["slow:5%", "clone", None]
    assert named("slow:5%", "one") == "slow:5%"
