"""Scores of nightly rules in a simulated world: false alarms, steps caught, and what the measuring cost."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perf.studies.simulation.ours import FIRST_AUDIT, ROUNDS, Ours
from perf.studies.simulation.world import Array, Noise, World
from perf.verdict.nights import LAUNCHES

HISTORY, NIGHTS = 30, 60  # before anything is scored; scored
SIZES = (0.02, 0.05, 0.10)
WITHIN = (1, 3, 7)  # nights
FIXED = 20.0  # rounds of a benchmark: the cost that others are told in
NEVER = 99


@dataclass
class Score:
    """Counts alarms, added up over worlds. `certified` ones are those of benchmarks that were certified at 5 % that
    night."""

    nights: int = 0  # benchmark-nights
    alarms: int = 0
    certified_nights: int = 0
    certified_alarms: int = 0
    rounds: float = 0.0
    steps: Counter[float] = field(default_factory=Counter)
    caught: Counter[tuple[float, int]] = field(default_factory=Counter)
    certified_steps: Counter[float] = field(default_factory=Counter)
    certified_caught: Counter[tuple[float, int]] = field(default_factory=Counter)
    faster: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seeds: int = 0

    def add_steps(self, size: float, after: NDArray[np.int64], certified: NDArray[np.bool_]) -> None:
        """Adds steps; `after` is the nights from the step to its alarm, `NEVER` without one."""
        self.steps[size] += len(after)
        self.certified_steps[size] += int(certified.sum())
        for nights in WITHIN:
            self.caught[size, nights] += int((after < nights).sum())
            self.certified_caught[size, nights] += int((after[certified] < nights).sum())

    @property
    def cost(self) -> float:
        return self.rounds / self.nights / FIXED

    def share(self, size: float, nights: int, *, certified: bool = False) -> float:
        caught, steps = ((self.certified_caught, self.certified_steps) if certified else (self.caught, self.steps))
        return caught[size, nights] / steps[size] if steps[size] else float("nan")

    def __iadd__(self, other: Score) -> Score:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)
        return self


def step_nights(world: World) -> NDArray[np.int64]:
    """Chooses when each benchmark gets slower: at a night after which a week is left."""
    return np.random.default_rng(world.seed + 10 ** 6).integers(HISTORY, HISTORY + NIGHTS - max(WITHIN) + 1,
                                                                world.benchmarks)


def steps_at(at: NDArray[np.int64], size: float) -> Array:
    """Gives the steps as (nights, benchmarks) of log times."""
    return np.where(np.arange(HISTORY + NIGHTS)[:, None] >= at, np.log1p(size), 0.0)


def of_ours(seeds: Iterable[int], noise: Noise, *, benchmarks: int = 300, nights: int = NIGHTS,
            plain: bool = False) -> Score:
    """Scores screen and confirm (`plain`: by the committed settings alone), in each seed's world as it is and with a
    step of each size put into every benchmark."""
    total = Score()
    for seed in seeds:
        world = World(seed, noise, nights=HISTORY + NIGHTS, benchmarks=benchmarks)
        ours = Ours(world, plain=plain)
        at = step_nights(world)
        after = {size: np.full(benchmarks, NEVER) for size in SIZES}
        certified_at = np.zeros(benchmarks, bool)
        for night in range(FIRST_AUDIT, HISTORY + nights):
            knowledge = ours.knowledge(night)
            cost = ours.audit(night, knowledge)
            if night < HISTORY:
                continue
            answer = ours.night(night, knowledge)
            certified = knowledge.certified <= 0.05
            certified_at |= certified & (at == night)
            total.nights += benchmarks
            total.alarms += int(answer.slower.sum())
            total.faster += int(answer.faster.sum())
            total.certified_nights += int(certified.sum())
            total.certified_alarms += int((answer.slower & certified).sum())
            total.rounds += cost + answer.rounds + LAUNCHES * ROUNDS * (benchmarks + len(world.control_group))
            total.counts.update(answer.counts)
            for size in SIZES:
                open_ = (at <= night) & (night < at + max(WITHIN)) & (after[size] == NEVER)
                if open_.any():
                    slower = ours.night(night, knowledge, steps_at(at, size), open_).slower
                    after[size][slower] = night - at[slower]
        in_time = at < HISTORY + nights
        for size in SIZES:
            total.add_steps(size, after[size][in_time], certified_at[in_time])
        total.seeds += 1
    return total
