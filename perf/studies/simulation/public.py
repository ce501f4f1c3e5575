"""Plays the rules of public tools in a simulated world, each fed with 20 rounds of one launch a night. Where a tool has
code for its decision, that code decides.

    compare-fail previous   pytest-benchmark --benchmark-compare-fail=median:5% against the night before
    compare-fail fixed      the same, against the last night before those that are scored
    asv compare 1.1          asv.commands.compare._is_result_better, adjacent nights, a Mann-Whitney test of the rounds
    asv continuous 1.03      the same function; both commits the same night, 2 launches of 10 rounds each: cost 2
    asv regressions          asv.step_detect, threshold 0.05, on the series up to the night
    Apache Otava             otava.analysis.compute_change_points, defaults, on the series up to the night
    robust z + BH            median and MAD of the 30 nights before; Benjamini-Hochberg over the night, q = 0.05

Those that look at a whole series raise an alarm when they name a slowdown at a place (give or take 2 nights) that they
had not named before.
"""
from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from perf.studies.simulation.score import HISTORY, NEVER, NIGHTS, SIZES, WITHIN, Score, step_nights, steps_at
from perf.studies.simulation.world import Array, Noise, World

ROUNDS = 20
NEAR = 2  # nights
Q = 0.05
MAD = 1.4826
Bools = NDArray[np.bool_]


def of_rule(name: str, seeds: Sequence[int], noise: Noise, *, benchmarks: int = 300) -> Score:
    """Raises ModuleNotFoundError where the tool is not installed."""
    total = Score()
    for seed in seeds:
        world = World(seed, noise, nights=HISTORY + NIGHTS, benchmarks=benchmarks)
        rule = RULES[name](world)
        at = step_nights(world)
        clean = rule(None, None)
        total.nights += NIGHTS * benchmarks
        total.alarms += int(clean[HISTORY:].sum())
        total.rounds += COST.get(name, 1.0) * ROUNDS * NIGHTS * benchmarks
        for size in SIZES:
            alarms = rule(steps_at(at, size), at)
            nights = np.arange(len(alarms))[:, None]
            inside = alarms & (nights >= at) & (nights < at + max(WITHIN))
            after = np.where(inside.any(axis=0), inside.argmax(axis=0) - at, NEVER)
            total.add_steps(size, after, np.zeros(benchmarks, bool))
        total.seeds += 1
    return total


# A rule of a world: steps put in (nights, benchmarks) and when, or None, to alarms (nights, benchmarks).
Rule = Callable[[Array | None, NDArray[np.int64] | None], Bools]


def _with(logs: Array, steps: Array | None) -> Array:
    return logs if steps is None else logs + steps


def compare_fail_previous(world: World) -> Rule:
    logs = world.passes(1, ROUNDS)[:, :, 0]

    def alarms(steps: Array | None, _: NDArray[np.int64] | None) -> Bools:
        times = _with(logs, steps)
        return np.vstack([np.zeros((1, world.benchmarks), bool), percent_fails(times[1:], times[:-1])])

    return alarms


def compare_fail_fixed(world: World) -> Rule:
    logs = world.passes(1, ROUNDS)[:, :, 0]
    return lambda steps, _: percent_fails(_with(logs, steps), _with(logs, steps)[HISTORY - 1])


def percent_fails(head: Array, base: Array, percent: float = 5.0) -> Bools:
    """Does as pytest_benchmark.utils.PercentageRegressionCheck, on arrays of log times."""
    return 100 * np.expm1(head - base) > percent


def asv_compare(world: World) -> Rule:
    logs = world.passes(1, ROUNDS)[:, :, 0]
    around = world.rng.normal(0, 1, (*logs.shape, ROUNDS)) * world.within[:, None]
    around -= np.median(around, axis=2, keepdims=True)

    def alarms(steps: Array | None, _: NDArray[np.int64] | None) -> Bools:
        times = _with(logs, steps)
        samples = times[:, :, None] + around
        slower = asv_worse(times[1:], times[:-1], samples[1:], samples[:-1], 1.1)
        return np.vstack([np.zeros((1, world.benchmarks), bool), slower])

    return alarms


def asv_continuous(world: World) -> Rule:
    head, base = world.side_by_side(2, ROUNDS // 2)

    def alarms(steps: Array | None, _: NDArray[np.int64] | None) -> Bools:
        change = np.zeros_like(head[:, :, 0]) if steps is None else np.diff(steps, axis=0, prepend=0)
        slow = head + change[:, :, None]
        return asv_worse(np.median(slow, axis=2), np.median(base, axis=2), slow, base, 1.03)

    return alarms


def asv_worse(head: Array, base: Array, head_samples: Array, base_samples: Array, factor: float) -> Bools:
    """Finds what `asv compare` marks as slower; its test is asked only where the factor is passed, as both have to
    hold."""
    from asv import _stats
    from asv.commands.compare import _is_result_better

    if not isinstance(_stats._mann_whitney_u_memo, _Cache):
        _stats._mann_whitney_u_memo = _Cache()
    beyond = head - base > math.log(factor)
    for place in zip(*np.nonzero(beyond), strict=True):
        sides = [(np.exp(side[place]), ({"repeat": side_samples.shape[-1]}, np.exp(side_samples[place]).tolist()))
                 for side, side_samples in ((base, base_samples), (head, head_samples))]
        (old, old_samples), (new, new_samples) = sides
        beyond[place] = _is_result_better(old, new, old_samples, new_samples, factor)
    return beyond


class _Cache(dict):
    """Keeps asv's table for its exact test, which it throws away when it is long: seconds for each of thousands of
    tests."""

    def __len__(self) -> int:
        return 0


def asv_regressions(world: World) -> Rule:
    from asv.step_detect import detect_regressions, detect_steps

    def named(seconds: Array) -> list[int]:
        _, _, regressions = detect_regressions(detect_steps(seconds.tolist()), threshold=0.05)
        return [after for _, after, *_ in regressions or []]

    return _over_series(world, named)


def otava(world: World) -> Rule:
    if importlib.util.find_spec("otava") is None:
        raise ModuleNotFoundError("Apache Otava is not installed; it pins an older numpy, so: pip install --no-deps "
                                  "apache-otava==0.8.0, and pip install scipy")
    from otava.analysis import compute_change_points

    def named(seconds: Array) -> list[int]:
        points, _ = compute_change_points(seconds.tolist())  # it takes an array for a window of one
        return [one.index for one in points if one.stats.mean_2 > one.stats.mean_1]

    return _over_series(world, named)


def _over_series(world: World, named: Callable[[Array], list[int]]) -> Rule:
    """Gives an alarm on the night on which a slowdown is named that was not before."""
    logs = world.passes(1, ROUNDS)[:, :, 0]
    names: dict[tuple[int, int], list[int]] = {}  # night, benchmark -> what was named until then, nothing put in

    def alarms(steps: Array | None, at: NDArray[np.int64] | None) -> Bools:
        alarms = np.zeros(logs.shape, bool)
        seconds = np.exp(_with(logs, steps))
        for b in range(world.benchmarks):
            first = HISTORY if at is None else int(at[b])
            last = len(logs) if at is None else first + max(WITHIN)
            before = list(names.get((first - 1, b), named(np.exp(logs[:first, b]))))
            for night in range(first, last):
                new = [place for place in named(seconds[:night + 1, b])
                       if all(abs(place - old) > NEAR for old in before)]
                alarms[night, b] = bool(new)
                before += new
                if at is None:
                    names[night, b] = list(before)
        return alarms

    return alarms


def robust_z(world: World) -> Rule:
    logs = world.passes(1, ROUNDS)[:, :, 0]

    def alarms(steps: Array | None, _: NDArray[np.int64] | None) -> Bools:
        alarms = np.zeros(logs.shape, bool)
        for night in range(HISTORY, len(logs)):
            clean = np.sort(_p_values(logs, night))
            ranks = np.arange(1, len(clean) + 1)
            rejected = int(np.max(np.where(clean <= Q * ranks / len(clean), ranks, 0)))
            # Of one more that is slower among those as they are: its rank is at least one more than theirs.
            most = rejected if steps is None else rejected + 1
            alarms[night] = _p_values(_with(logs, steps), night) <= Q * most / len(clean)
        return alarms

    return alarms


def _p_values(logs: Array, night: int) -> Array:
    before = logs[night - 30:night]
    middle = np.median(before, axis=0)
    z = (logs[night] - middle) / (MAD * np.median(np.abs(before - middle), axis=0))
    return np.array([math.erfc(one / math.sqrt(2)) / 2 for one in z])


RULES: dict[str, Callable[[World], Rule]] = {
    "compare-fail previous": compare_fail_previous, "compare-fail fixed": compare_fail_fixed,
    "asv compare 1.1": asv_compare, "asv continuous 1.03": asv_continuous, "asv regressions": asv_regressions,
    "Apache Otava": otava, "robust z + BH": robust_z,
}
COST = {"asv continuous 1.03": 2.0}
SLOW = ("asv regressions", "Apache Otava")  # fewer seeds
