"""What one timed model is to another of the same run: the ratios that the goals claim and the README shows."""
from __future__ import annotations

from dataclasses import dataclass

from perf.studies.measuring import Timed


@dataclass(frozen=True)
class Compared:
    """A model against the one it is to replace."""

    new: Timed
    old: Timed

    @property
    def speed_up(self) -> float:
        """Times as fast by the stopwatch, each as it is used."""
        return used(self.old) / used(self.new)

    @property
    def device_speed_up(self) -> float:
        return self.old.gpu / self.new.gpu

    @property
    def slowdown(self) -> float:
        """Times the time by the stopwatch, both called."""
        return self.new.eager / self.old.eager

    @property
    def device_slowdown(self) -> float:
        return self.new.gpu / self.old.gpu

    @property
    def replayed_slowdown(self) -> float | None:
        """Times the time by the stopwatch, the new one as a CUDA graph, the old one called; None without a graph."""
        return self.new.replay / self.old.eager if self.new.replay else None

    @property
    def size(self) -> float:
        return self.new.weights / self.old.weights


def used(t: Timed) -> float:
    """Seconds by the stopwatch: a compiled model by its CUDA graph where there is one, an uncompiled one called."""
    return t.best if t.workload.compiled else t.eager
