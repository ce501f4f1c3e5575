"""Other processes beside a pair on the CPU.

A pair has one thread at work, held to one core, so that company on other cores is borne; without an idle core to go
to, others take part of its own.
"""
from __future__ import annotations

import os
import time
from collections.abc import Sequence

import psutil

from perf.measure.host import Foreign

TOLERATED = 0.75  # of a core, beyond the cores that the pair leaves idle
SHORTEST = 0.2  # seconds below which the kernel's hundredths don't tell company from nothing
LOOK = 0.1  # seconds to see which core is idle


class Company:
    """Watches from when it is made; `pids` are the pair's workers, which are none."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._workers = [psutil.Process(pid) for pid in pids]
        self._spent = self._seconds()
        self._foreign = Foreign()

    def _seconds(self) -> float:
        return sum(times.user + times.system for times in (worker.cpu_times() for worker in self._workers))

    def cores(self) -> float:
        """Gives how many cores others kept busy, on average."""
        return max(0.0, self._foreign.cores - (self._seconds() - self._spent) / self._foreign.seconds)

    def unfit(self) -> str | None:
        """Says why the pair is not to be trusted, in one line."""
        idle = cores_allowed() - 1
        busy = self.cores()
        if self._foreign.seconds < SHORTEST or busy <= idle + TOLERATED:
            return None
        return (f"other processes kept {busy:.1f} of {idle + 1} cores busy, so they took part of the one that is "
                "measured on: end them")


def cores_allowed() -> int:
    """Counts the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_core() -> int | None:
    """Chooses the idlest of the cores allowed, after a look at them; None where a process can't be held to one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = psutil.cpu_times(percpu=True)
    time.sleep(LOOK)
    after = psutil.cpu_times(percpu=True)
    return max(os.sched_getaffinity(0), key=lambda core: after[core].idle - before[core].idle)
