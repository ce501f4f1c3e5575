"""How much of the CPU other processes used during a measurement.

Threads that wait for one another by spinning lose far more to a neighbour than its share: on 2 busy
cores the same forward pass took 13 ms and 2300 ms. So a row measured in company is marked.
"""
from __future__ import annotations

import psutil

TOLERATED = 0.1  # of one core
RESOLUTION = 0.03  # seconds; the kernel counts in hundredths


class Foreign:
    """Cores that other processes kept busy, on average, since this was made."""

    def __init__(self) -> None:
        self._all, self._own, self._total = _seconds()

    @property
    def cores(self) -> float:
        everyone, own, total = _seconds()
        elapsed = (total - self._total) / (psutil.cpu_count() or 1)
        others = (everyone - self._all) - (own - self._own)
        return others / elapsed if others > RESOLUTION else 0.0


def _seconds() -> tuple[float, float, float]:
    """CPU seconds since boot: of all processes, of this one, and in all (idle too)."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    total = times.user + times.system + times.idle + sum(
        getattr(times, name, 0.0) for name in ("nice", "iowait", "irq", "softirq", "steal"))
    own = psutil.Process().cpu_times()
    return total - idle, own.user + own.system, total
