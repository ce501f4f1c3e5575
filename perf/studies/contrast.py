"""Compares two timed models of one run: the ratios that the goals claim and the README shows."""
from __future__ import annotations

from dataclasses import dataclass

from perf.studies.measuring import Measurement


@dataclass(frozen=True)
class Contrast:
    """Sets a model against the one it is to replace."""

    new: Measurement
    old: Measurement

    @property
    def speed_up(self) -> float:
        """Gives the factor by which it is as fast by the stopwatch, each as it is used."""
        return used(self.old) / used(self.new)

    @property
    def device_speed_up(self) -> float:
        """Gives the factor by which it is as fast, by the device's time."""
        return self.old.gpu / self.new.gpu

    @property
    def slowdown(self) -> float:
        """Gives the factor of the time by the stopwatch, both called."""
        return self.new.eager / self.old.eager

    @property
    def device_slowdown(self) -> float:
        """Gives the factor of the time, by the device's."""
        return self.new.gpu / self.old.gpu

    @property
    def replayed_slowdown(self) -> float | None:
        """Gives the factor of the time by the stopwatch, the new one as a CUDA graph, the old one called; None without
        a graph."""
        return self.new.replay / self.old.eager if self.new.replay else None

    def at_least(self, factor: float) -> bool | None:
        """Tells whether it is so many times as fast by the stopwatch: surely, surely not, or (None) neither."""
        return _at_least(self.speed_up, _half(self.new) + _half(self.old), factor)

    def at_least_by_device(self, factor: float) -> bool | None:
        """Tells the same of the device's time."""
        return _at_least(self.device_speed_up, self.new.interval + self.old.interval, factor)

    @property
    def size(self) -> float:
        """Gives the part of the other's bytes."""
        return self.new.weights / self.old.weights


def used(t: Measurement) -> float:
    """Gives the stopwatch's seconds: of a compiled model by its CUDA graph where there is one, else called."""
    return t.best if t.workload.compiled else t.eager


def _half(t: Measurement) -> float:
    return t.replay_interval if t.workload.compiled and t.replay is not None else t.eager_interval


def _at_least(ratio: float, half: float, factor: float) -> bool | None:
    """Holds a ratio against a factor; `half` is the sum of both times' intervals, which is wider than theirs need."""
    return True if ratio * (1 - half) >= factor else False if ratio * (1 + half) < factor else None
