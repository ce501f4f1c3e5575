"""A seeded world of launch pairs, to score a verdict's rules on: what is called slower, and after how many pairs.

    python -m perf.tests.simulation 2000       # scores, beside those of a rule of fixed standard errors

A pair's log ratio is the difference of two medians of rounds (spread within a run 0.5 to 5 %, log-uniform over
benchmarks), plus what two live launches differ by (standard deviation 1.1 % on a CPU, 0.3 to 1 % on a GPU). Of the
benchmarks 6 % are bimodal: each launch is 1.3 % faster or slower. Of the pairs 2 % are spikes of 5 to 30 % on either
side. What both sides of a pair share cancels. A layout, where a world has one, stays for the whole comparison.

The rules were tuned on seeds below `SCORING`; they are scored on others.
"""
from __future__ import annotations

import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from perf.verdict.verdict import Side, Thresholds, decide, settled

SCORING = 5000
SIDE = Side({}, None, None)

Rule = Callable[[Sequence[float]], "str | None"]  # a word as soon as sampling may stop


@dataclass(frozen=True)
class World:
    """`hum`, unless None, is the spread of each pair instead: of a machine that others use too."""

    device: str = "cpu"
    rounds: int = 10  # a side, of each pair
    layout: float = 0.0
    bimodal: float = 0.06
    spikes: float = 0.02
    hum: float | None = None

    def pairs(self, noise: random.Random, injected: float = 0.0) -> Iterator[float]:
        """Log ratios of one benchmark whose head takes `injected` more time (0.05 is 5 %)."""
        within = math.exp(noise.uniform(math.log(0.005), math.log(0.05))) * 1.2533 * math.sqrt(2 / self.rounds)
        launch = 0.011 if self.device == "cpu" else math.exp(noise.uniform(math.log(0.003), math.log(0.01)))
        spread = self.hum or math.hypot(within, launch)
        level = math.log1p(injected) + noise.gauss(0, self.layout)
        mode = 0.013 if noise.random() < self.bimodal else 0.0
        while True:
            ratio = level + noise.gauss(0, spread) + mode * (noise.choice((-1, 1)) - noise.choice((-1, 1)))
            if noise.random() < self.spikes:
                ratio += noise.choice((-1, 1)) * noise.uniform(0.05, 0.3)
            yield ratio


@dataclass
class Score:
    words: Counter[str] = field(default_factory=Counter)
    pairs: list[int] = field(default_factory=list)

    def share(self, word: str) -> float:
        return self.words[word] / self.words.total()

    def __str__(self) -> str:
        words = ", ".join(f"{word} {self.share(word):.3%}" for word in sorted(self.words))
        tenth = sorted(self.pairs)[int(0.9 * len(self.pairs))]
        return f"{words}; pairs {statistics.fmean(self.pairs):.1f}, 90 % within {tenth}"


def ours(thresholds: Thresholds) -> Rule:
    def rule(pairs: Sequence[float]) -> str | None:
        return decide(pairs, SIDE, SIDE, thresholds).word if settled(pairs, thresholds) else None

    return rule


def fixed_errors(pairs: Sequence[float], most: int = 32) -> str | None:
    """A rule to beat: from 5 pairs on, slower where 3.5 standard errors above 1.5 %, and 70 % of pairs slower; done
    where 3 standard errors below 5 %."""
    n = len(pairs)
    if n < 3:
        return None
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(n)
    if n >= 5 and mean - 3.5 * error > 0.015 and sum(ratio > 0 for ratio in pairs) >= 0.7 * n:
        return "regressed"
    if mean + 3 * error < math.log(1.05):
        return "ok"
    return "inconclusive" if n >= most else None


def score(world: World, rule: Rule, *, comparisons: int, injected: float = 0.0, seed: int = SCORING) -> Score:
    """What `rule` says of as many benchmarks, each looked at after every pair until it says something."""
    found = Score()
    for i in range(comparisons):
        pairs: list[float] = []
        word = None
        source = world.pairs(random.Random(f"{seed} {i}"), injected)
        while word is None:
            pairs.append(next(source))
            word = rule(pairs)
        found.words[word] += 1
        found.pairs.append(len(pairs))
    return found


def main(comparisons: int) -> None:
    worlds = {"cpu": World("cpu"), "gpu": World("gpu"), "hum of 5 %": World(hum=0.05), "hum of 10 %": World(hum=0.1)}
    rules = {"ours": ours(Thresholds()), "fixed errors": fixed_errors}
    for (name, world), injected, (rule, run) in product(worlds.items(), (0.0, 0.02, 0.05, 0.1), rules.items()):
        found = score(world, run, comparisons=comparisons, injected=injected)
        print(f"{name:14}{injected:4.0%}  {rule:13}{found}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
