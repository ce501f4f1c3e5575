"""A seeded world of launch pairs, to score a verdict's rules on: what is called slower, and after how many pairs.

    python -m perf.tests.simulation 2000       # scores, beside those of a rule of fixed standard errors

A pair's log ratio is the difference of two medians of rounds (spread within a run 0.5 to 5 %, log-uniform over
benchmarks), plus what two live launches differ by (standard deviation 1.1 % on a CPU, 0.3 to 1 % on a GPU). Of the
benchmarks 6 % are bimodal: each launch is 1.3 % faster or slower. Of the pairs 2 % are spikes of 5 to 30 % on either
side. What both sides of a pair share cancels. A layout, where a world has one, stays for the whole comparison; a pair
and the next may be correlated.

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
from itertools import islice, product

from perf.verdict import spread
from perf.verdict.judgement import Judgement, share
from perf.verdict.verdict import Side, Thresholds

SCORING = 5000
SIDE = Side({}, None, None)

Rule = Callable[[Sequence[float]], "str | None"]  # a word as soon as sampling may stop


@dataclass(frozen=True)
class World:
    """Draws pairs. `hum`, unless None, is the spread of each pair instead: of a machine that others use too;
    `correlation` that of a pair and the next."""

    device: str = "cpu"
    rounds: int = 10  # a side, of each pair
    layout: float = 0.0
    bimodal: float = 0.06
    spikes: float = 0.02
    hum: float | None = None
    correlation: float = 0.0

    def pairs(self, noise: random.Random, injected: float = 0.0) -> Iterator[float]:
        """Draws log ratios of one benchmark whose head takes `injected` more time (0.05 is 5 %)."""
        within = math.exp(noise.uniform(math.log(0.005), math.log(0.05))) * 1.2533 * math.sqrt(2 / self.rounds)
        launch = 0.011 if self.device == "cpu" else math.exp(noise.uniform(math.log(0.003), math.log(0.01)))
        spread = self.hum or math.hypot(within, launch)
        level = math.log1p(injected) + noise.gauss(0, self.layout)
        mode = 0.013 if noise.random() < self.bimodal else 0.0
        last = noise.gauss(0, spread)
        while True:
            last = self.correlation * last + math.sqrt(1 - self.correlation ** 2) * noise.gauss(0, spread)
            ratio = level + last + mode * (noise.choice((-1, 1)) - noise.choice((-1, 1)))
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


def fixed_errors(pairs: Sequence[float], most: int = 32) -> str | None:
    """Is a rule to beat: from 5 pairs on it says slower where 3.5 standard errors lie above 1.5 %, and 70 % of pairs
    are slower; it is done where 3 standard errors lie below 5 %."""
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
    """Asks `rule` about as many benchmarks, each looked at after every pair until it says something."""
    result = Score()
    for i in range(comparisons):
        pairs: list[float] = []
        word = None
        source = world.pairs(random.Random(f"{seed} {i}"), injected)
        while word is None:
            pairs.append(next(source))
            word = rule(pairs)
        result.words[word] += 1
        result.pairs.append(len(pairs))
    return result


def shipped(world: World, thresholds: Thresholds, *, comparisons: int, injected: float = 0.0, seed: int = SCORING,
            together: int = 1, earlier: int = 0) -> Score:
    """Returns what the rule that ships says of as many benchmarks: `together` of them share their launches and what
    they know of pairs, each of which had `earlier` pairs in an earlier run on the machine."""
    result = Score()
    for first in range(0, comparisons, together):
        sources = {f"{seed} {i}": world.pairs(random.Random(f"{seed} {i}"), injected)
                   for i in range(first, min(first + together, comparisons))}
        before = {name: seen for name, source in sources.items() if (seen := spread.of(list(islice(source, earlier))))}
        known = {name: Judgement(thresholds, SIDE, SIDE) for name in sources}
        undecided = list(known)
        while undecided:
            for name in undecided:
                known[name].ratios.append(next(sources[name]))
            if together > 1 or earlier:
                share(known, before, undecided)
            for name in [name for name in undecided if known[name].done]:
                undecided.remove(name)
                result.words[known[name].verdict().word] += 1
                result.pairs.append(len(known[name].ratios))
    return result


def main(comparisons: int) -> None:
    worlds = {"cpu": World("cpu"), "gpu": World("gpu"), "hum of 5 %": World(hum=0.05), "hum of 10 %": World(hum=0.1),
              "cpu, correlated": World("cpu", correlation=0.5), "gpu, correlated": World("gpu", correlation=0.5)}
    rules: dict[str, dict[str, int]] = {"ours, alone": {}, "20 together": {"together": 20},
                                        "known before": {"together": 20, "earlier": 8}}
    for (name, world), injected in product(worlds.items(), (0.0, 0.02, 0.03, 0.05, 0.1)):
        for rule, how in rules.items():
            result = shipped(world, Thresholds(), comparisons=comparisons, injected=injected, **how)
            print(f"{name:16}{injected:4.0%}  {rule:13}{result}", flush=True)
        result = score(world, fixed_errors, comparisons=comparisons, injected=injected)
        print(f"{name:16}{injected:4.0%}  {'fixed errors':13}{result}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
