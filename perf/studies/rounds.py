"""Rows timed side by side in rounds of random order: what drifts meets all rows alike, and is taken for none of them.

In each round every row is called once. Two rows are compared round by round: the median of their ratios. A table
timed row after row takes a machine that warms up, or a neighbour that comes and goes, for a difference.
"""
from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perf.measure.sampling import FEWEST, median_interval
from perf.studies.calls import bounded
from perf.studies.measuring import Study, reading

Call = Callable[[], Any]
MOST = 200  # rounds
LONGEST = 300.0  # seconds of a first call, compilation included
TOLD = 2.0  # times as slow: from there on percents say little


@dataclass(frozen=True)
class Ratio:
    """Time of one row over that of another, the median of their rounds, and half its 95 % interval."""

    value: float
    half: float

    @property
    def saved(self) -> float:
        """Percent of the time that the first row takes less than the second; negative is slower."""
        return 100 * (1 - self.value)

    def __str__(self) -> str:
        if self.value > TOLD:
            return f"{self.value:.2f}x the time (±{self.half:.2f})"
        return f"{self.saved:+.1f} % (±{100 * self.half:.1f})"


def orders(names: Iterable[str], seed: int = 0) -> Iterator[list[str]]:
    """Without end, all names, each time in another order."""
    shuffle, known = random.Random(seed), list(names)
    while True:
        yield shuffle.sample(known, len(known))


def able(study: Study, calls: Mapping[str, Call], about: str) -> dict[str, Call]:
    """Those that ran once; what fails or does not fit is a line, and gives its memory back."""
    found = {}
    for name, call in calls.items():
        with study.part(f"{name}, {about}"), bounded(LONGEST):
            study.in_time()
            call()
            found[name] = call
        if name not in found:
            gc.collect()
            if study.device.type == "cuda":
                torch.cuda.empty_cache()
    return found


def interleaved(calls: Mapping[str, Call], device: torch.device, *, seconds: float, most: int = MOST,
                fewest: int = FEWEST, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each call by a stopwatch, one a round, until `seconds` are spent (after at least `fewest` rounds);
    a first round, in which libraries load and allocate, is not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for count, names in enumerate(orders(calls, seed)):
        if count > fewest and (time.perf_counter() > end or count > most):
            break
        for name in names:
            spent = reading(calls[name], device)
            if count:
                found[name].append(spent)
    return found


def ratio(new: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of rounds that both rows were in."""
    pairs = [a / b for a, b in zip(new, base, strict=True)]
    middle = statistics.median(pairs)
    return Ratio(middle, middle * median_interval(pairs))
