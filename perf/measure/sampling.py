"""Sampling takes rounds until the median is known well enough, or the time for it is spent.

The interval is the distribution-free one of order statistics: of n independent samples, the j-th
smallest and the j-th largest enclose the median with a probability that the binomial distribution
gives (Hettmansperger and McKean, Robust Nonparametric Statistical Methods, section 1.3). Samples of one
process are not quite independent, so it says how well this process knows its median, not how far the
next process's may lie.
"""
from __future__ import annotations

import contextlib
import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from perf.measure.clocks import Clock, Plan

CONFIDENCE = 0.95
FEWEST = 6  # samples: of fewer not even the smallest and the largest enclose the median with 95 %
CHUNK = 0.025  # seconds of rounds between two looks at the interval and the machine


@dataclass(frozen=True)
class Samples:
    """Holds seconds of a call, one a round. `interval` is half the width of the median's interval, relative to it."""

    seconds: tuple[float, ...]
    interval: float
    ended: str  # "precision" or "budget"

    @property
    def median(self) -> float:
        """Gives the median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Gives the seconds between the quartiles."""
        ordered, quarter = sorted(self.seconds), len(self.seconds) // 4
        return ordered[-1 - quarter] - ordered[quarter]


def sample(clock: Clock, plan: Plan, *, precision: float, watch: Callable[[], Any] | None = None) -> Samples:
    """Times rounds of `plan` until the median's interval is within `precision`, or the clock's budget is spent.

    GPU readings are lazy: a chunk's rounds are queued, `watch()` looks at the machine while the GPU
    works on them, then the readings are read; nothing runs beside the timing.
    """
    seconds: list[float] = []
    chunk = max(1, math.ceil(CHUNK / plan.seconds))
    end = time.perf_counter() + clock.budget
    with _without_garbage_collection():
        while True:
            readings = [one_round(clock, plan) for _ in range(min(chunk, clock.most - len(seconds)))]
            if watch is not None:
                watch()
            seconds += [(stop - start) / plan.iterations for start, stop in readings]
            interval = median_interval(seconds)
            if len(seconds) >= FEWEST and interval <= precision:
                return Samples(tuple(seconds), interval, "precision")
            if (time.perf_counter() >= end and len(seconds) >= 3) or len(seconds) >= clock.most:
                return Samples(tuple(seconds), interval, "budget")


def one_round(clock: Clock, plan: Plan) -> tuple[Any, Any]:
    """Reads the clock twice, with the plan's calls in between."""
    if plan.setup:
        plan.setup()
    start = clock.timer()
    for _ in range(plan.iterations):
        plan.call()
    return start, clock.timer()


def median_interval(seconds: Sequence[float]) -> float:
    """Gives half the width of the 95 % interval of the median, relative to the median; 0 < it <= inf.

    Of fewer than `FEWEST` samples it is that between the smallest and the largest, or infinite of one, and of samples
    in which no time passed.
    """
    if len(seconds) < 2:
        return math.inf
    ordered = sorted(seconds)
    rank = _rank(len(ordered))
    width, median = ordered[-1 - rank] - ordered[rank], statistics.median(ordered)
    return width / 2 / median if median else math.inf


@functools.cache
def _rank(n: int) -> int:
    """Counts the most samples that may be left out at either end of n."""
    tail, term, rank = 0.0, 0.5 ** n, 0
    for left_out in range(n // 2):
        tail += term  # P(fewer than left_out + 1 of n samples lie below the median)
        if tail > (1 - CONFIDENCE) / 2:
            break
        rank = left_out
        term *= (n - left_out) / (left_out + 1)
    return rank


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
