"""Measures one call by itself: the kernel it ran, its seconds by the harness's clock, its peak, in limited time."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from perf.bench.subject import fallback
from perf.measure import counters
from perf.measure.clocks import clock
from perf.measure.memory import peak_bytes
from perf.measure.sampling import sample
from perf.workloads.workload import Workload

PRECISION = 0.01


@dataclass(frozen=True)
class Timing:
    """Holds the median `seconds` of a call and half its 95 % interval, relative to it; `peak` bytes beyond what stood
    before."""

    seconds: float
    interval: float
    clock: str
    peak: int


def timing(call: Callable[[], Any], device: torch.device, limit: float) -> Timing:
    """Makes the call, once to be ready, once or more for its memory, then times it. Raises TimeoutError past `limit`
    seconds."""
    with bounded(limit):
        call()
        peak = peak_bytes(call, device)
        ticking = clock(device)
        plan = ticking.prepare(call)
        samples = sample(ticking, plan, precision=PRECISION)
    return Timing(samples.median, samples.interval, plan.clock, peak)


def confirm(call: Callable[[], Any], w: Workload, device: torch.device) -> None:
    """Raises ValueError, in one line, where another kernel ran in the call than the workload names."""
    if reason := fallback(counters.count(call, device), w, device):
        raise ValueError(reason)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises TimeoutError once the seconds are over, as soon as Python has its turn: a kernel is not interrupted. It
    works in the main thread only."""
    def end(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
