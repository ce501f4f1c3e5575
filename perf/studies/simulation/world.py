"""Simulates nights from a seed: log times of benchmarks, night after night, and launch pairs on demand.

What a launch shows of a benchmark, in logarithms, is the sum of

    layout    of the night's commit: drawn anew with every commit, the same in each of its launches
    machine   what the whole group shares that night, AR(1); the frozen controls have it too
    drift     the benchmark's own slow random walk; and `wander`, where a world has it, an AR(1) that no control sees
    night     of the benchmark, that night, on this machine: half of the variance between runs
    launch    of this process: the other half
    mode      of a bimodal benchmark: each launch is faster or slower
    spike     some launches are 5 to 30 % slower
    rounds    of this launch: its median of r rounds misses by 1.2533 cv / sqrt(r)

A launch pair has the layouts of its two commits, a launch, mode, spike and rounds of each side, and nothing else: what
the night does to both cancels.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MEDIAN = 1.2533  # standard error of a median of normal samples, over that of their mean


@dataclass(frozen=True)
class Noise:
    """Holds the standard deviations of logarithms; a pair of numbers is a range, log-uniform over benchmarks."""

    within: tuple[float, float] = (0.005, 0.05)  # cv of the rounds of a launch
    run: tuple[float, float] = (0.003, 0.02)  # between runs
    machine: float = 0.01
    memory: float = 0.7  # of the machine's state, from night to night
    layout: float = 0.003
    ragged: float = 0.0  # share of benchmarks whose layout spread is `ragged_layout`
    ragged_layout: float = 0.01
    bimodal: float = 0.06  # share of benchmarks
    mode: float = 0.013
    spikes: float = 0.005  # share of launches
    drift: float = 0.0003  # a night
    wander: float = 0.0


WORLDS = {
    "mixed": Noise(),
    "layout 1 %": Noise(layout=0.01),
    "layout 1 % of a tenth": Noise(ragged=0.1),
    "frequent spikes": Noise(spikes=0.02),
    "twice the noise": Noise(within=(0.01, 0.1), run=(0.006, 0.04), machine=0.02, layout=0.006, mode=0.026,
                             spikes=0.01, drift=0.0006),
    "correlated drift": Noise(machine=0.02, memory=0.95, drift=0.001, wander=0.01),
}


class World:
    """Is `nights` of `benchmarks` in `groups` of as many, each with frozen controls, which are quiet benchmarks."""

    def __init__(self, seed: int, noise: Noise, *, nights: int = 90, benchmarks: int = 300, groups: int = 4,
                 controls: int = 8) -> None:
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.noise, self.nights, self.benchmarks, self.groups = noise, nights, benchmarks, groups
        self.group = np.arange(benchmarks) % groups
        self.control_group = np.arange(groups * controls) % groups
        rng, n, b, c = self.rng, noise, benchmarks, groups * controls
        self.machine = ar1(rng, (nights, groups), n.machine, n.memory)
        self.within, run = loguniform(rng, n.within, b), loguniform(rng, n.run, b)
        self.launch = self.night = run / np.sqrt(2)
        spread = np.where(rng.random(b) < n.ragged, n.ragged_layout, n.layout)
        self.layout = rng.normal(0, 1, (nights, b)) * spread
        self.mode = np.where(rng.random(b) < n.bimodal, n.mode, 0.0)
        own = np.cumsum(rng.normal(0, n.drift, (nights, b)), axis=0) + ar1(rng, (nights, b), n.wander, 0.95)
        self._level = self.layout + self.machine[:, self.group] + own + rng.normal(0, 1, (nights, b)) * self.night
        quiet = loguniform(rng, (n.run[0], 2 * n.run[0]), c)  # fixed programs, chosen for being quiet
        self._control_within = loguniform(rng, (n.within[0], 3 * n.within[0]), c)
        self._control_launch = quiet / np.sqrt(2)
        self._control_level = self.machine[:, self.control_group] + rng.normal(0, 1, (nights, c)) * quiet / np.sqrt(2)

    def passes(self, passes: int, rounds: int) -> Array:
        """Gives (nights, benchmarks, passes): the median of each launch of a night."""
        return self._launches(self._level, self.launch, self.within, self.mode, passes, rounds)

    def controls(self, passes: int, rounds: int) -> Array:
        """Gives (nights, controls, passes), likewise."""
        return self._launches(self._control_level, self._control_launch, self._control_within,
                              np.zeros(len(self.control_group)), passes, rounds)

    def _launches(self, level: Array, launch: Array, within: Array, mode: Array, passes: int, rounds: int) -> Array:
        shape = (*level.shape, passes)
        return level[:, :, None] + self._one_launch(shape, launch[:, None], within[:, None], mode[:, None], rounds)

    def _one_launch(self, shape: tuple[int, ...], launch: Array, within: Array, mode: Array,
                    rounds: int | Array) -> Array:
        rng = self.rng
        noise = rng.normal(0, 1, shape) * np.hypot(launch, MEDIAN * within / np.sqrt(rounds))
        spikes = np.where(rng.random(shape) < self.noise.spikes, rng.uniform(0.05, 0.3, shape), 0.0)
        return noise + spikes + mode * rng.choice((-1.0, 1.0), shape)

    def pairs(self, benchmark: int, night: int, base: int, count: int, rounds: int) -> Array:
        """Gives (count,) log ratios of the commit of `night` over that of `base`, without a change put into either."""
        b = benchmark
        sides = self._one_launch((2, count), self.launch[b], self.within[b], self.mode[b], rounds)
        return self.layout[night, b] - self.layout[base, b] + sides[0] - sides[1]


    def side_by_side(self, launches: int, rounds: int) -> tuple[Array, Array]:
        """Draws rounds of each night's commit and of the one before it, both measured that night: two arrays (nights,
        benchmarks, launches x rounds)."""
        sides = []
        for layout in (self.layout, np.vstack([self.layout[:1], self.layout[:-1]])):
            level = (self._level - self.layout + layout)[:, :, None]
            shape = (self.nights, self.benchmarks, launches)
            launch = self._one_launch(shape, self.launch[:, None], np.zeros((1, 1)), self.mode[:, None], 1)
            noise = self.rng.normal(0, 1, (*shape, rounds)) * self.within[:, None, None]
            sides.append(((level + launch)[..., None] + noise).reshape(*shape[:2], -1))
        return sides[0], sides[1]


def loguniform(rng: np.random.Generator, between: tuple[float, float], count: int) -> Array:
    low, high = between
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def ar1(rng: np.random.Generator, shape: tuple[int, int], spread: float, memory: float) -> Array:
    """Gives (nights, columns), stationary, of standard deviation `spread`."""
    steps = rng.normal(0, 1, shape)
    series = np.empty(shape)
    series[0] = steps[0]
    for night in range(1, shape[0]):
        series[night] = memory * series[night - 1] + np.sqrt(1 - memory ** 2) * steps[night]
    return spread * series
