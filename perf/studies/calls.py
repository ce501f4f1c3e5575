"""One call, measured by itself: its seconds by the harness's clock, the bytes of its peak, within a limit of time.
Two calls in turns, for a ratio of a few percent that a busy machine would hide."""
from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from perf.measure.clocks import clock
from perf.measure.memory import peak_bytes
from perf.measure.sampling import median_interval, sample

PRECISION = 0.01
TURNS = (6, 30)  # rounds of two calls in turns: the fewest, and the most
LONGEST = 2.0  # seconds of them, beyond the fewest


@dataclass(frozen=True)
class Measured:
    """Median `seconds` of a call and half its 95 % interval, relative to it; `peak` bytes beyond what stood before."""

    seconds: float
    interval: float
    clock: str
    peak: int


def measured(call: Callable[[], Any], device: torch.device, limit: float) -> Measured:
    """The call, once to make it ready, once or more for its memory, then timed. TimeoutError past `limit` seconds."""
    with bounded(limit):
        call()
        peak = peak_bytes(call, device)
        ticking = clock(device)
        plan = ticking.prepare(call)
        found = sample(ticking, plan, precision=PRECISION)
    return Measured(found.median, found.interval, plan.clock, peak)


@dataclass(frozen=True)
class Ratio:
    """The second call's seconds over the first's: the median of rounds in turns, half its 95 % interval relative to
    it; `seconds` are the second's own, round by round."""

    median: float
    interval: float
    rounds: int
    seconds: tuple[float, ...] = ()

    @property
    def ends(self) -> tuple[float, float]:
        return self.median * (1 - self.interval), self.median * (1 + self.interval)

    def at_most(self, bound: float) -> bool | None:
        """Surely, surely not, or (None) these rounds can't tell."""
        low, high = self.ends
        return True if high <= bound else False if low > bound else None

    def within(self, part: float) -> bool | None:
        """Whether the two are the same but for this part."""
        low, high = self.ends
        if low > 1 + part or high < 1 - part:
            return False
        return True if 1 - part <= low and high <= 1 + part else None

    def __str__(self) -> str:
        return f"{100 * (self.median - 1):+.1f} % ± {100 * self.median * self.interval:.1f} ({self.rounds} turns)"


def in_turns(first: Callable[[], Any], second: Callable[[], Any], device: torch.device, limit: float) -> Ratio:
    """Rounds of both, each first every other time, until the ratio is known to `PRECISION` or `LONGEST` is spent.
    TimeoutError past `limit` seconds."""
    ticking = clock(device)
    ratios: list[float] = []
    seconds: list[float] = []
    with bounded(limit):
        plans = [ticking.prepare(call) for call in (first, second)]
        end = time.monotonic() + LONGEST
        while len(ratios) < TURNS[0] or (len(ratios) < TURNS[1] and time.monotonic() < end
                                         and median_interval(ratios) > PRECISION):
            order = (0, 1) if len(ratios) % 2 else (1, 0)
            took = {i: _round(ticking, plans[i]) for i in order}
            ratios.append(took[1] / took[0])
            seconds.append(took[1])
    return Ratio(statistics.median(ratios), median_interval(ratios), len(ratios), tuple(seconds))


def _round(ticking: Any, plan: Any) -> float:
    """Seconds a call."""
    if plan.setup:
        plan.setup()
    start = ticking.timer()
    for _ in range(plan.iterations):
        plan.call()
    return (ticking.timer() - start) / plan.iterations


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """TimeoutError once the seconds are over, as soon as Python has its turn: a kernel is not interrupted.
    For the main thread."""
    def end(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def change(old: float, new: float) -> str:
    """"-12.3 %" of the old one."""
    return f"{100 * (new / old - 1):+.1f} %"
