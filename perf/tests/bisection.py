"""Made-up histories and verdicts on them, for the tests of bisection."""
from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perf.compare.bisect import Compare, bisect, commits
from perf.tests.repositories import Repository
from perf.verdict.search import Outcome, search
from perf.verdict.verdict import Verdict

EFFECT = 0.05


def verdict(ratio: float, low: float, high: float) -> Verdict:
    """Follows the contract of words: a ratio is clear of the smallest effect that matters on either side, or
    inconclusive."""
    word = ("regressed" if low > 1 + EFFECT / 2 else "improved" if high < 1 - EFFECT / 2 else
            "ok" if high < 1 + EFFECT else "inconclusive")
    return Verdict(word, ratio, low, high, 5, "", 0)


def levels(count: int, *steps: tuple[int, float]) -> list[float]:
    """Returns the level of each of `count` commits: from the n-th one on, (n, level)."""
    found = [1.0] * count
    for first, level in sorted(steps):
        found[first - 1:] = [level] * (count - first + 1)
    return found


def searched(count: int, measure: Callable[[str], Verdict | None]) -> Outcome:
    """Returns what is found among commits "1" to `count`."""
    return search([str(i + 1) for i in range(count)], measure)


@dataclass
class World:
    """Commits "1", "2", ... of given levels (time over good's), measured with a known half-width of the interval.

    The interval holds the truth; a broken commit can't be imported; `spread` halves with every measurement.
    """

    levels: Sequence[float]
    spread: float = 0.002
    broken: frozenset[int] = frozenset()
    seed: int = 0
    asked: Counter[int] = field(default_factory=Counter)
    unclear: set[int] = field(default_factory=set)

    def measure(self, commit: str) -> Verdict | None:
        position = int(commit)
        self.asked[position] += 1
        if position in self.broken:
            return None
        half = self.spread / 2 ** (self.asked[position] - 1)
        off = random.Random(f"{self.seed} {position} {self.asked[position]}").uniform(-half, half)
        ratio = self.levels[position - 1] * math.exp(off)
        found = verdict(ratio, ratio * math.exp(-half), ratio * math.exp(half))
        if found.word == "inconclusive":
            self.unclear.add(position)
        return found

    def search(self) -> Outcome:
        return searched(len(self.levels), self.measure)

    @property
    def measured(self) -> int:
        return len([position for position in self.asked if position not in self.broken])


def run(repository: Repository, compare: Compare, seconds: float = 10.0) -> int:
    """Bisects the repository's main from its tag good on, and returns the exit code."""
    return bisect(commits("good", "main", repository.root), compare, seconds)
