"""A benchmark borrows the spread of a launch pair, so that 2 or 3 pairs of its own are enough, and learns how far
neighbouring pairs are alike.

    own      its own pairs of earlier runs on this machine
    others   the other benchmarks: of this run, and of earlier runs on this machine
    kind     what A/A runs on this kind of machine have shown (perf/policy/thresholds.toml), where others are too few

Benchmarks differ in spread, so what the others have in common is worth only as many pairs as their variances agree:
these follow s0^2 F(d, d0), and d0 is fitted by the moments of their logarithms (Smyth, Statistical Applications in
Genetics and Molecular Biology 3 (2004) article 3: the "moderated t" of the limma package). Variances far above the
rest are drawn in first, if they are of few pairs, where one bad pair makes them: a disturbance that hit a few
benchmarks must not make all the others wait for pairs. The correlation of a pair and the next is the machine's: that of
all others together, with two standard errors, once these are enough to tell.

Pure: no I/O.
"""
from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from perf.policy.thresholds import Prior
from perf.verdict.intervals import FINEST, PART

OWN = 8.0  # pairs that earlier runs of a benchmark are worth at most: another day has another spread
COMMON = 4.0  # the same of the other benchmarks, since one may be far noisier; and a quarter of their own:
QUARTER = 4.0
FAR = 2.5  # times as far above the middle as a sixth of them lie below it: drawn in to there,
FEW = 4.0  # if it has fewer degrees of freedom, 2 to 6 pairs
ENOUGH = 6  # other benchmarks before they say what is common
WINSORIZED = 0.8  # the variance that is left of normal pairs, 8 to 32 of them, once the outer ones are drawn in
UPPER = 2.0  # standard errors, for a correlation that is not passed


@dataclass(frozen=True)
class Spread:
    """Holds the variance of a benchmark's log ratios about their mean, with its degrees of freedom.

    `lag` / `lags` is the correlation of a pair and the next, of `pairs` pairs, without the bias of a short series
    (Kendall, Biometrika 41 (1954) 403: -(1 + 3 r) / n)."""

    variance: float
    freedom: float
    lag: float = 0.0
    lags: float = 0.0
    pairs: float = 0.0

    def __add__(self, other: Spread) -> Spread:
        freedom = self.freedom + other.freedom
        return Spread((self.variance * self.freedom + other.variance * other.freedom) / freedom, freedom,
                      self.lag + other.lag, self.lags + other.lags, self.pairs + other.pairs)

    def at_most(self, freedom: float) -> Spread:
        return replace(self, freedom=min(self.freedom, freedom))


def of(ratios: Sequence[float]) -> Spread | None:
    """Takes the log ratios of one benchmark's pairs, in order; None for fewer than two. Of 5 and more the outer ones
    are drawn in, as in an estimate: one bad pair must not make a benchmark noisy for weeks."""
    n = len(ratios)
    if n < 2:
        return None
    cut = max(1, n // PART) if n >= 5 else 0
    ordered = sorted(ratios)
    low, high = ordered[cut], ordered[n - 1 - cut]
    winsorized = [min(max(ratio, low), high) for ratio in ratios]
    mean, freedom = statistics.fmean(winsorized), n - 1 - 2 * cut
    squares = math.fsum((ratio - mean) ** 2 for ratio in winsorized)
    spread = Spread(max(squares / freedom / (WINSORIZED if cut else 1.0), FINEST ** 2), float(freedom))
    if n < 4 or not squares:
        return spread
    lag = math.fsum((x - mean) * (y - mean) for x, y in itertools.pairwise(winsorized)) / squares
    return replace(spread, lag=n * lag + 1, lags=n - 3.0, pairs=float(n))


def borrow(kind: Prior, own: Spread | None, others: Sequence[Spread]) -> Prior:
    """Gives what is known of a benchmark's pairs before its own of this run."""
    known = common(others) if len(others) >= ENOUGH else None
    if known is None and kind.weight:
        known = Spread(kind.spread ** 2, kind.weight)
    correlation = min(kind.correlation, alike([*others, *([own] if own else [])]))
    if own:
        own = own.at_most(OWN)
        known = known + own if known else own
    return Prior(math.sqrt(known.variance), known.freedom, correlation) if known else Prior(0.0, 0.0, correlation)


def alike(spreads: Sequence[Spread]) -> float:
    """Gives the correlation of a pair and the next that these don't rule out; infinite where they tell none."""
    lags = math.fsum(one.lags for one in spreads)
    if not lags:
        return math.inf
    error = math.sqrt(math.fsum(one.pairs for one in spreads)) / lags
    return max(0.0, math.fsum(one.lag for one in spreads) / lags + UPPER * error)


def common(spreads: Sequence[Spread]) -> Spread:
    """Estimates the variance s0^2 that these have in common, worth d0 degrees of freedom: few where they differ
    widely."""
    logs = [math.log(one.variance) - digamma(one.freedom / 2) + math.log(one.freedom / 2) for one in spreads]
    middle, low = (sorted(logs)[len(logs) // part] for part in (2, 6))
    far = middle + FAR * (middle - low)
    logs = [min(log, far) if one.freedom < FEW else log for log, one in zip(logs, spreads, strict=True)]
    mean = statistics.fmean(logs)
    excess = statistics.variance(logs) - statistics.fmean(trigamma(one.freedom / 2) for one in spreads)
    most = min(COMMON, sum(one.freedom for one in spreads) / QUARTER)
    freedom = most if excess <= trigamma(most / 2) else 2 * _inverse_trigamma(excess)
    return Spread(math.exp(mean + digamma(freedom / 2) - math.log(freedom / 2)), freedom)


def digamma(x: float) -> float:
    """Computes the derivative of log gamma: upwards by its recurrence, then by its asymptotic series."""
    total = 0.0
    while x < 6:
        total -= 1 / x
        x += 1
    square = 1 / (x * x)
    return total + math.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square / 252))


def trigamma(x: float) -> float:
    """Computes the derivative of digamma, likewise."""
    total = 0.0
    while x < 6:
        total += 1 / (x * x)
        x += 1
    square = 1 / (x * x)
    return total + 1 / x + square / 2 + square / x * (1 / 6 - square * (1 / 30 - square / 42))


def _inverse_trigamma(value: float) -> float:
    """Bisects in the logarithm; trigamma falls."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if trigamma(middle) > value else (low, middle)
    return low
