"""Drift is found in a history by pure functions on lists: a value a night, the oldest first.

    steps(values)     every lasting change of level in the whole history, up or down
    creep(values)     what the last 7 or 30 nights lie above the 30 before, if that is no chance

None stands for a night without a number. Values are compared by ratio (by difference, if any is not positive).

The steps are the least-squares partition of the logarithms under a penalty for each further level, found exactly in
about linear time by PELT (Killick et al., arXiv 1101.1438). Spikes are held to a few standard deviations of the median
around them first, so that no single night makes a level: what the biweight loss does in Fearnhead and Rigaill
(arXiv 1609.07363). The noise is taken from differences of successive nights, by a percentile that steps, spikes
and slow drift leave as it is. How often this finds what, how late, and how often it cries wolf, beside asv's own
steps and Apache Otava: docs/drift.md.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PENALTY = 6.0  # of a further level, in log(nights) x noise variance: what a step must explain
SHORTEST = 3  # nights of a level
CLIP = 3.0  # standard deviations that a night may lie off the median around it
AROUND = 3  # nights on either side, of which that median is
LEAST = 0.01  # a smaller change is nobody's concern: 0.01 is 1 %
QUIETEST = 1e-4  # noise that is taken for granted, or a constant history would step at the first rounding
RECENT = (7, 30)  # nights
BEFORE = 30
SURE = 3.5  # standard errors of a creep
TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
PERCENTILE_80 = 1.2816  # of the absolute value of a normal distribution with standard deviation 1
MEDIAN_ERROR = 1.2533  # standard error of a median, in those of a mean

Values = Sequence[float | None]


@dataclass(frozen=True)
class Change:
    """Is a level that came in place of another one: at night `at` (a place in the values), for good or until the
    next."""

    at: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """Divides after by before: 1.05 is 5 % slower. It is infinite if there was nothing before."""
        return self.after / self.before if self.before else math.inf


@dataclass(frozen=True)
class Creep:
    """Holds the median of the last `nights` and that of the nights before, `errors` standard errors apart."""

    nights: int
    before: float
    after: float
    errors: float

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else math.inf


def steps(values: Values, *, penalty: float = PENALTY, least: float = LEAST) -> list[Change]:
    """Finds the lasting changes of level of at least `least`, in order; none in less than two levels' nights."""
    nights = [at for at, value in enumerate(values) if value is not None]
    known = [value for value in values if value is not None]
    if len(known) < 2 * SHORTEST:
        return []
    x = _scale(known)
    sigma = noise(x)
    starts = _partition([value / sigma for value in _clip(x, sigma)], penalty * math.log(len(x)))
    starts = _settle(x, _merge(x, starts, least))
    bounds = [*starts, len(x)]
    levels = [statistics.median(known[a:b]) for a, b in pairwise(bounds)]
    return [Change(nights[at], before, after)
            for at, before, after in zip(starts[1:], levels, levels[1:], strict=False)]


def creep(values: Values, *, sure: float = SURE) -> Creep | None:
    """Finds what the last nights lie above those before, by the surest of the windows; None if that may be chance.

    A step that lies within the windows is found as well: `steps` says of which night it is.
    """
    known = [value for value in values if value is not None]
    creeps: list[Creep] = []
    for nights in RECENT:
        if len(known) < nights + BEFORE:
            continue
        x = _scale(known[-nights - BEFORE:])
        old, new = x[:BEFORE], x[BEFORE:]
        excess = statistics.median(new) - statistics.median(old)
        error = MEDIAN_ERROR * max(noise(x), _spread(old)) * math.sqrt(1 / nights + 1 / BEFORE)
        if excess >= LEAST and excess / error >= sure:
            was, now = known[-nights - BEFORE:][:BEFORE], known[-nights:]
            creeps.append(Creep(nights, statistics.median(was), statistics.median(now), excess / error))
    return max(creeps, key=lambda one: one.errors, default=None)


def noise(x: Sequence[float]) -> float:
    """Estimates the standard deviation from night to night, steps and drift left out; never less than `QUIETEST`.

    By the 80th percentile of the differences, not their median: over 20 nights that is out by a half too often.
    """
    differences = sorted(abs(b - a) for a, b in pairwise(x))
    if not differences:
        return QUIETEST
    return max(QUIETEST, differences[math.ceil(0.8 * len(differences)) - 1] / (PERCENTILE_80 * math.sqrt(2)))


def _spread(x: Sequence[float]) -> float:
    middle = statistics.median(x)
    return TO_SIGMA * statistics.median(abs(value - middle) for value in x)


def _scale(values: Sequence[float]) -> list[float]:
    """Puts the values on a scale where 0.01 is 1 %."""
    if all(value > 0 for value in values):
        return [math.log(value) for value in values]
    unit = statistics.median(map(abs, values)) or max(map(abs, values)) or 1.0
    return [value / unit for value in values]


def _clip(x: Sequence[float], sigma: float) -> list[float]:
    """Holds each night to the median of those around it, as many at the ends: two spikes in the last three nights are
    not yet a level."""
    clipped = []
    for at, value in enumerate(x):
        start = max(0, min(at - AROUND, len(x) - 2 * AROUND - 1))
        middle = statistics.median(x[start:start + 2 * AROUND + 1])
        clipped.append(min(max(value, middle - CLIP * sigma), middle + CLIP * sigma))
    return clipped


def _partition(x: Sequence[float], penalty: float) -> list[int]:
    """Finds where the levels start, by PELT. `x` is in units of its noise."""
    total, squares = [0.0], [0.0]
    centre = statistics.median(x)
    for value in x:
        total.append(total[-1] + value - centre)
        squares.append(squares[-1] + (value - centre) ** 2)

    def cost(a: int, b: int) -> float:
        return squares[b] - squares[a] - (total[b] - total[a]) ** 2 / (b - a)

    n = len(x)
    best, last = [-penalty] + [math.inf] * n, [0] * (n + 1)
    candidates = [0]
    beaten: deque[set[int]] = deque()  # by a level that ends here: of use until the next level could be long enough
    for end in range(SHORTEST, n + 1):
        reached = [(best[start] + cost(start, end) + penalty, start) for start in candidates]
        best[end], last[end] = min(reached)
        beaten.append({start for so_far, start in reached if so_far - penalty > best[end]})
        dropped = beaten.popleft() if len(beaten) == SHORTEST else set()
        candidates = [start for start in candidates if start not in dropped]
        candidates.append(end - SHORTEST + 1)  # long enough from the next night on
    starts = []
    at = n
    while at > 0:
        at = last[at]
        starts.append(at)
    return starts[::-1]


def _merge(x: Sequence[float], starts: list[int], least: float) -> list[int]:
    """Drops the steps that are smaller than `least`, the smallest first."""
    starts = list(starts)
    while len(starts) > 1:
        bounds = [*starts, len(x)]
        levels = [statistics.median(x[a:b]) for a, b in pairwise(bounds)]
        sizes = [abs(b - a) for a, b in pairwise(levels)]
        smallest = min(range(len(sizes)), key=sizes.__getitem__)
        if sizes[smallest] >= least:
            break
        del starts[smallest + 1]
    return starts


def _settle(x: Sequence[float], starts: list[int]) -> list[int]:
    """Begins each level at the first night that is nearer to it than to the one before: the partition, which wants a
    few nights of each, may begin it early. A last level that has too few nights then is dropped."""
    bounds = [*starts, len(x)]
    levels = [statistics.median(x[a:b]) for a, b in pairwise(bounds)]
    settled = starts[:1]
    for at, end, old, new in zip(starts[1:], bounds[2:], levels, levels[1:], strict=False):
        while at < end - 1 and abs(x[at] - old) < abs(x[at] - new):
            at += 1
        if end < len(x) or end - at >= SHORTEST:
            settled.append(at)
    return settled
