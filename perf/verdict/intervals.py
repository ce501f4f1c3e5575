"""The interval of a change comes from one log ratio a launch pair; it is honest at every look, and past a few bad
pairs.

Pairs are few (3 to 32), their spread is not known beforehand, and sampling ends as soon as the answer is
clear. So the interval at n pairs belongs to a confidence sequence: all of them together, of whatever number of
pairs, hold the true change with the stated probability, and any rule may say when to stop. It is the one of the
sequential t-test with a normal prior on the change in units of the spread: the Bayes factor

    B = (1 + n g)^(-1/2) [(1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1) (1 + n g)))]^(n/2)

is a martingale while the change is the one that t asks about, so the chance that it ever reaches 1/error is at
most `error` (Ville 1939). Sources: Lai, Annals of Statistics 4 (1976) 265; Rouder et al., Psychonomic Bulletin &
Review 16 (2009) 225, for B; Wang and Ramdas, arXiv 2310.03722, for B as a test that may be looked at any time.
That is exact for normal ratios of unknown spread.

Against the odd bad pair, the middle is a trimmed mean with the Winsorized variance of Tukey and McLaughlin
(Sankhya A 25 (1963) 331; Yuen, Biometrika 61 (1974) 165): the pairs that are kept take the place of n. That is an
approximation, which perf/tests/simulation.py checks. Below 8 pairs nothing is trimmed: bad pairs widen the interval.

What is known of the spread beforehand (`Prior`) is the prior of its variance, worth so many pairs more: with v =
n - 1 and that many degrees of freedom, n - 1 above becomes v, and n in the exponent v + 1. Then one pair has an
interval too, and the chance of a miss is one over benchmarks whose spread is as uncertain as said.

Neighbouring pairs may be alike: a machine that drifts tells the same thing twice. If pair and next have the
correlation r, k apart r^k, the mean of n varies by b = 1 + 2 sum (1 - k/n) r^k more than that of independent ones, and
their sample variance comes out smaller by a = 1 - 2/(n - 1) sum (1 - k/n) r^k. Intervals are wider by the root of b
over what a makes of the spread. (Without it the 98 % sequence misses 13 % of the time at r = 0.5, with it 1.4 %.)
"""
from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from perf.policy.thresholds import Prior

PRIOR = 20.0  # g, the variance of changes over that of a pair: a change that matters is 4 spreads, or more
PART = 8  # of n pairs the n // 8 lowest and as many of the highest are trimmed
FINEST = 1e-3  # no spread is believed to be smaller: clocks tick, and three pairs may agree by chance
NOTHING = Prior()


@dataclass(frozen=True)
class Estimate:
    """Holds the trimmed mean of the log ratios of `kept` pairs, and the spread (standard deviation) of one; `known` are
    the degrees of freedom of that spread that were known before, `correlation` that of a pair and the next."""

    middle: float
    spread: float
    kept: int
    known: float = 0.0
    correlation: float = 0.0

    def half_width(self, error: float, pairs: int | None = None) -> float:
        """Gives half the interval, in log ratios, that misses with the chance `error` at all looks together; may be
        infinite. With `pairs` it is what it would be after so many pairs of the same spread."""
        kept = self._kept(pairs)
        return self.error(pairs) * critical(kept, error, self.known)

    def error(self, pairs: int | None = None) -> float:
        """Gives the standard error of the middle."""
        kept = self._kept(pairs)
        return self.spread * math.sqrt(inflation(kept, self.correlation, self.known) / kept)

    def _kept(self, pairs: int | None) -> int:
        return self.kept if pairs is None else pairs - 2 * (pairs // PART)


def estimate(pairs: Sequence[float], prior: Prior = NOTHING) -> Estimate:
    """Estimates the change from log ratios, two at least, or one where a spread is learned. Raises ValueError, in one
    line, for fewer or one that is not finite."""
    n = len(pairs)
    if n < (1 if prior.weight else 2):
        raise ValueError(f"{n} launch pairs have no spread: two at least")
    for i, ratio in enumerate(pairs, 1):
        if not math.isfinite(ratio):
            raise ValueError(f"log ratio {i} of {n} is {ratio}: a time was zero, negative or not measured")
    cut = n // PART
    ordered = sorted(pairs)
    inner = ordered[cut:n - cut]
    winsorized = [inner[0]] * cut + inner + [inner[-1]] * cut
    mean = math.fsum(winsorized) / n
    squares = math.fsum((ratio - mean) ** 2 for ratio in winsorized) + prior.weight * prior.spread ** 2
    variance = squares / (len(inner) - 1 + prior.weight)
    return Estimate(math.fsum(inner) / len(inner), max(math.sqrt(variance), FINEST), len(inner), prior.weight,
                    prior.correlation)


@functools.lru_cache(maxsize=4096)
def inflation(n: int, correlation: float, known: float = 0.0) -> float:
    """Divides the variance of a mean of n pairs so correlated by what n independent ones of the spread seen would have;
    `known` degrees of freedom of that spread stem from elsewhere."""
    alike = math.fsum((1 - k / n) * correlation ** k for k in range(1, n))
    if not alike:
        return 1.0
    of_spread = (n - 1 - 2 * alike + known) / (n - 1 + known)
    return (1 + 2 * alike) / of_spread


@functools.lru_cache(maxsize=4096)
def critical(n: int, error: float, known: float = 0.0) -> float:
    """Gives the |t| of n normal pairs at which B reaches 1/error; infinite where no t does, because n is too small.

    `known`: the degrees of freedom of the spread beside those of the pairs."""
    freedom, grown = n - 1 + known, 1 + n * PRIOR
    if not freedom:
        return math.inf
    needed = (math.sqrt(grown) / error) ** (2 / (freedom + 1))
    if needed >= grown:
        return math.inf
    return math.sqrt(freedom * (needed - 1) / (1 - needed / grown))
