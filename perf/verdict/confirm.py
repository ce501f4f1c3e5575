"""A suspect is confirmed by launch pairs, whose settings follow from the smallest change that is certain to be found.

A confirmation is a comparison like any other (perf/verdict/verdict.py), tonight's commit against the last good one,
with settings that history has learned for the benchmark:

    spread   of its launch pairs, so that one quiet pair may clear it
    floor    below which nothing is called a change: `FLOOR` spreads of the difference of two layouts
    effect   what it is cleared of, the smallest of `LADDER` that it is certain to detect

It is certain to detect a change if that lies above the floor by the interval's half width after the most pairs, and by
`MISS` standard deviations of what the estimate varies by: its own error and the two layouts. And if a few pairs can
clear the benchmark of it on all the nights on which nothing happened. A smaller promise would be a lie or cost too
much, so where layouts or launches spread wide the promise grows: "detects 8 % first night".

Pairs count as independent here, unlike in `--perf-against`: the constants were tuned so in perf/studies/simulation, on
other seeds than those they are scored on (docs/nightly-rule.md).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

from perf.policy.thresholds import Thresholds
from perf.verdict.intervals import PART, Estimate

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
