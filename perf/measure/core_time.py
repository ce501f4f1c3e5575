"""A timer for one thread on a CPU leaves out the seconds in which others had the core.

As long as a thread doesn't wait for anything, what it takes beyond the CPU time of its process was taken by others:
processes that the kernel ran in its place, or the host of a virtual machine. A round that waited (for another thread,
a file, a lock) is told by the wall clock. On an idle machine the two agree.
"""
from __future__ import annotations

import resource
import time
from dataclasses import dataclass

AVAILABLE = hasattr(resource, "RUSAGE_THREAD")  # Linux


@dataclass(frozen=True)
class Moment:
    """Seconds of the wall clock and of the process's CPU time, and how often the thread has waited so far."""

    wall: float
    cpu: float
    waits: int

    def __sub__(self, start: Moment) -> float:
        wall = self.wall - start.wall
        return wall if self.waits != start.waits else min(wall, self.cpu - start.cpu)


class CoreTimer:
    """Reads moments as a clock's timer does: the difference of two is in seconds."""

    __name__ = "core_time"

    def __call__(self) -> Moment:
        return Moment(time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
