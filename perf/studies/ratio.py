"""Writes a figure as the change from another; less time and memory is better."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from perf.measure.sampling import median_interval
from perf.report.units import change_in_percent

PERCENTS = 2.0  # times as slow: from there on percents say little


@dataclass(frozen=True)
class Ratio:
    """Is the time of a new call over that of its base: the median of their rounds, and half its 95 % interval relative
    to it; `seconds` are the new one's, round by round."""

    median: float
    interval: float
    rounds: int
    seconds: tuple[float, ...] = ()

    @classmethod
    def of(cls, new: Sequence[float], base: Sequence[float]) -> Ratio:
        """Divides the seconds of the rounds that both were in."""
        ratios = [a / b for a, b in zip(new, base, strict=True)]
        return cls(statistics.median(ratios), median_interval(ratios), len(ratios), tuple(new))

    @property
    def ends(self) -> tuple[float, float]:
        """Gives the ends of the interval."""
        return self.median * (1 - self.interval), self.median * (1 + self.interval)

    def at_most(self, bound: float) -> bool | None:
        """Says whether the ratio is at most `bound`: surely, surely not, or (None) these rounds can't tell."""
        low, high = self.ends
        return True if high <= bound else False if low > bound else None

    def within(self, part: float) -> bool | None:
        """Says whether the two are the same but for this part: surely, surely not, or (None) these rounds can't
        tell."""
        low, high = self.ends
        if low > 1 + part or high < 1 - part:
            return False
        return True if 1 - part <= low and high <= 1 + part else None

    def __str__(self) -> str:
        half = self.median * self.interval
        if self.median > PERCENTS:
            return f"{self.median:.2f}x the time ± {half:.2f}"
        return f"{change(1, self.median)} ± {100 * half:.1f}"


def change(old: float, new: float) -> str:
    """Writes "-12.3 %" for a change from the old one."""
    return f"{change_in_percent(new / old)} %"
