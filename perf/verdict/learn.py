"""History teaches each benchmark's noise, and from that follow the settings by which a suspect is confirmed. Pure
functions on arrays.

- A pair's spread: two launches of one night differ by what the sides of a pair differ by.
- A layout's (where a build puts code and data, which moves times and is no regression): by how much two commits differ
  that are not called different. Each comparison by live pairs tells, its own error taken off. A suspect's is biased: it
  ends as soon as it is cleared. So each night a few quiet benchmarks are compared without being suspects (`audits`);
  those of all benchmarks together say what is usual, and a benchmark's own comparisons may raise that.
- A night's spread: perf/verdict/screen.py, from the nights themselves.

A confirmation (`plan`) is a comparison like any other (perf/verdict/verdict.py), tonight's commit against the last good
one, with settings of its own:

    spread   of the benchmark's launch pairs, so that one quiet pair may clear it
    floor    below which nothing is called a change: `FLOOR` spreads of the difference of two layouts
    effect   what it is cleared of, the smallest of `LADDER` that it is certain to detect

It is certain to detect a change if that lies above the floor by the interval's half width after the most pairs, and by
`MISS` standard deviations of what the estimate varies by: its own error and the two layouts. And if a few pairs can
clear the benchmark of it on all the nights on which nothing happened. A smaller promise would be a lie or cost too
much, so where layouts or launches spread wide the promise grows: "detects 8 % first night".

Pairs count as independent here, unlike in `--perf-against`: the constants were tuned so in perf/studies/simulation, on
other seeds than those they are scored on (docs/nightly-rule.md). Times are natural logarithms of seconds; spreads are
standard deviations of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perf.policy.thresholds import Thresholds
from perf.verdict.intervals import PART, Estimate
from perf.verdict.screen import FEWEST as FEWEST_NIGHTS
from perf.verdict.screen import FINEST, Array, robust_spread

AUDITED = 20  # nights in which each of the quietest third is compared once
AUDIT_PAIRS = 8
REMEMBERED = 30  # nights of comparisons
FEWEST = 30  # audits before the layout spread is known at all
OWN = 3.0  # comparisons of its own that weigh as much as what is usual
UPPER = 1.645  # standard errors: 95 %
CUT = 6.0
MEAN_CUT = 0.9742  # of min(chi-square with one degree of freedom, CUT)
FEWEST_ROUNDS, MOST_ROUNDS = 3, 8
LAUNCH = 1.0  # rounds
MEDIAN = 1.2533  # standard error of a median of normal samples, over that of their mean

LADDER = (0.05, 0.06, 0.08, 0.10, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5)
FLOOR = 2.5  # standard deviations of the difference of two layouts
MISS = 2.6  # standard deviations: 0.5 %
WEIGHT = 15.0  # pairs that 30 nights of two launches are worth
ALARM = 5e-4  # of a suspect; few are
CONFIDENCE = 0.9  # at all looks together; of one look it is more than 3 standard errors
STRONG = 0.6  # of the effect: what is cleared of no less than that is whatever looked slower
LEAST_CHANGE, MOST_PAIRS = 5, 48
CLEARING, QUICKLY = 5, 2  # pairs in which a promise of the base's effect, or of a larger one, is to be cleared


@dataclass(frozen=True)
class Difference:
    """Is a comparison by live pairs that was not called a change: the middle of its log ratios and the standard error.

    `audit`: it was no suspect's."""

    benchmark: int
    middle: float
    error: float
    audit: bool


def pair_spread(passes: Array) -> Array:
    """Estimates the spread of one pair's log ratio, for each benchmark, with as many rounds as a launch had: `passes`
    (nights, benchmarks, 2). It is NaN where fewer than 10 nights are known."""
    apart = passes[:, :, 0] - passes[:, :, 1]
    return np.where(np.isfinite(apart).sum(axis=0) >= FEWEST_NIGHTS, robust_spread(apart), np.nan)


def with_rounds(pair: Array, within: Array, rounds: int, target: NDArray[np.int64]) -> Array:
    """Converts the spread of a pair of `rounds` to that of one of `target`: `within` is the spread of the rounds of one
    launch, whose median stands for it."""
    of_round = 2 * (MEDIAN * within) ** 2
    return np.sqrt(np.maximum(pair ** 2 - of_round / rounds, pair ** 2 / 10) + of_round / target)


def rounds_of_pair(pair: Array, within: Array, rounds: int) -> NDArray[np.int64]:
    """Chooses the rounds of each side, 3 to 8: those that tell most for their time, a launch taking as long as `LAUNCH`
    rounds."""
    choices = np.arange(FEWEST_ROUNDS, MOST_ROUNDS + 1)[:, None]
    return FEWEST_ROUNDS + np.argmin((choices + LAUNCH) * with_rounds(pair, within, rounds, choices) ** 2, axis=0)


def layout_spread(compared: Sequence[Difference], benchmarks: int) -> Array:
    """Estimates each benchmark's layout spread from above; it comes down as comparisons come in, and is infinite before
    there are 30 audits. In comparisons with errors e and middles m, m^2 - e^2 is twice the layout's variance, on
    average."""
    audit = np.array([one.audit for one in compared], dtype=bool)
    if audit.sum() < FEWEST:
        return np.full(benchmarks, np.inf)
    benchmark = np.array([one.benchmark for one in compared], dtype=np.int64)
    middle, error = (np.array([getattr(one, name) for one in compared]) for name in ("middle", "error"))
    usual = _usual(middle[audit], error[audit])
    weight = _information(usual, error)
    variance, own = (np.bincount(benchmark, weights, benchmarks)
                     for weights in (weight * (middle ** 2 - error ** 2) / 2, weight))
    return np.sqrt(np.maximum((OWN * usual ** 2 + variance) / (OWN + own), usual ** 2))


def _usual(middle: Array, error: Array) -> float:
    """Finds the layout spread at which m^2 / (2 layout^2 + e^2), cut off at 6, has the mean that it has for normal
    differences, by bisection; raised to an upper estimate."""
    low, high = 0.0, 1.0
    for _ in range(40):
        trial = (low + high) / 2
        if np.minimum(middle ** 2 / (2 * trial ** 2 + error ** 2), CUT).mean() > MEAN_CUT:
            low = trial
        else:
            high = trial
    usual = max(high, FINEST)
    return usual * (1 + UPPER / np.sqrt(2 * max(float(_information(usual, error).sum()), 1.0)))


def _information(layout: float, error: Array) -> Array:
    """Weighs what each comparison tells of the layout spread: 1 for one without an error of its own."""
    return (2 * layout ** 2 / (2 * layout ** 2 + error ** 2)) ** 2


def audits(night: int, pair: Array) -> list[int]:
    """Lists the benchmarks to be compared tonight whatever they look like: each of the quietest third, by `pair`
    spread, in its turn."""
    quiet = np.argsort(pair)[:np.isfinite(pair).sum() // 3]
    return sorted(int(one) for one in quiet[night % AUDITED::AUDITED])


@dataclass(frozen=True)
class Plan:
    """Holds the smallest change that is certain to be found the first night, `effect`, None where not even the largest
    of `LADDER` is, and the `thresholds` of the confirmation."""

    effect: float | None
    thresholds: Thresholds

    @property
    def promise(self) -> str:
        """Writes "detects 5 % first night"."""
        if self.effect is None:
            return "detects nothing for certain: too little history, or too wide a spread"
        return f"detects {100 * self.effect:g} % first night"


def plan(base: Thresholds, pair: float, layout: float, *, strong: bool = False) -> Plan:
    """Plans a benchmark's confirmation by its committed settings, `base`, and its learned spreads of a `pair` and of a
    `layout` (perf/verdict/learn.py), not finite where nothing is known. `strong` is a suspect that looked slower."""
    effect = certify(base, pair, layout)
    target = effect or max(LADDER[-1], base.effect)
    known = math.isfinite(pair)
    floor = min(_floor(base, layout), 0.75 * target)
    cleared = max(STRONG * target, 1.5 * floor) if strong else target
    return Plan(effect, replace(
        base, effect=min(cleared, target), floor=floor, confidence=CONFIDENCE, alarm=ALARM, correlation=0.0,
        least_pairs=1 if known else base.least_pairs, least_change=LEAST_CHANGE, most_pairs=MOST_PAIRS,
        spread=pair if known else 0.0, weight=WEIGHT if known else 0.0))


def certify(base: Thresholds, pair: float, layout: float) -> float | None:
    """Finds the smallest change of `LADDER`, at least base.effect, that is certain to be found the first night."""
    if not (math.isfinite(pair) and math.isfinite(layout)):
        return None
    last = Estimate(0.0, pair, MOST_PAIRS - 2 * (MOST_PAIRS // PART), WEIGHT)
    above = max(last.half_width(1 - CONFIDENCE) + math.log1p(_floor(base, layout)), last.half_width(2 * ALARM))
    varies = math.hypot(pair / math.sqrt(last.kept), math.sqrt(2) * layout)
    for effect in sorted({base.effect, *(step for step in LADDER if step > base.effect)}):
        clearing = Estimate(0.0, pair, CLEARING if effect == base.effect else QUICKLY, WEIGHT)
        cleared = clearing.half_width(1 - CONFIDENCE) + math.sqrt(2) * layout
        if math.log1p(effect) >= max(above + MISS * varies, cleared):
            return effect
    return None


def _floor(base: Thresholds, layout: float) -> float:
    return max(base.floor, math.expm1(min(FLOOR * math.sqrt(2) * layout, 1.0)))
