"""Other processes take part of the CPU during a measurement: how much, in cores.

Threads that wait for one another by spinning lose far more to a neighbour than its share: on 2 busy
cores the same forward pass took 13 ms and 2300 ms. So a row measured in company is marked.
"""
from __future__ import annotations

import os
import time

import psutil

TOLERATED = 0.1  # of one core
RESOLUTION = 0.03  # seconds; the kernel counts in hundredths
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class Foreign:
    """Counts the cores that other processes kept busy on average since this was made; of those this one may run on."""

    def __init__(self) -> None:
        self._cores = _allowed()
        self._all, self._own = _seconds(self._cores)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def cores(self) -> float:
        everyone, own = _seconds(self._cores)
        others = (everyone - self._all) - (own - self._own)
        return others / self.seconds if others > RESOLUTION else 0.0


def spare_cores(threads: int) -> float:
    """Counts the cores that `threads` busy threads leave to others; two hardware threads share one core."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    return max(0.0, len(_allowed()) * physical / logical - threads)


def _allowed() -> frozenset[int]:
    """Gives the CPUs that this process may run on: `taskset` keeps it away from the others' work."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(psutil.cpu_count() or 1))


def _seconds(cores: frozenset[int]) -> tuple[float, float]:
    """Reads the CPU seconds since boot, of all processes on these cores and of this process."""
    every = psutil.cpu_times(percpu=True)
    some = every if len(cores) >= len(every) else [times for core, times in enumerate(every) if core in cores]
    busy = sum(getattr(times, name, 0.0) for times in some for name in BUSY)
    own = os.times()
    return busy, own.user + own.system
