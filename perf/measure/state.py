"""The state of the machine is looked at while something is timed; evidence keeps a summary."""
from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from perf.measure.host import Host
from perf.measure.nvml import Reading

FEWEST = 6  # readings from which on a drift is told from a flicker


@dataclass(frozen=True)
class State:
    """Is one look at the machine, `seconds` after the measurement on `device` ("cpu" or "cuda") began."""

    device: str
    seconds: float
    gpu: Reading | None = None
    host: Host | None = None
    busy: bool = True  # whether the GPU had work; False before the first and after the last round
    unwatched: str | None = None  # why the GPU is not read, in one line


def readings(states: Iterable[State], busy: bool = False) -> list[Reading]:
    """Gives the readings of the GPU; only while it was busy, if asked: the clocks of an idle GPU say nothing."""
    return [state.gpu for state in states
            if state.gpu and not (busy and (not state.busy or "gpu_idle" in (state.gpu.reasons or ())))]


def figures(read: Iterable[Reading], name: str) -> list[Any]:
    """Gives one figure of each reading that has it."""
    return [value for one in read if (value := getattr(one, name)) is not None]


def words(read: Iterable[Reading]) -> list[str]:
    """Lists every reason that held the clocks at any time, each once."""
    return list(dict.fromkeys(word for one in read for word in one.reasons or ()))


def thirds(values: Sequence[float]) -> tuple[float, float] | None:
    """Gives the medians of the first and of the last third; None of too few values."""
    third = len(values) // 3
    return (statistics.median(values[:third]), statistics.median(values[-third:])) if len(values) >= FEWEST else None


def last_host(states: Sequence[State]) -> Host | None:
    """Gives the host over all of the measurement."""
    return next((state.host for state in reversed(states) if state.host), None)


def summary(states: Sequence[State]) -> dict[str, Any]:
    """Gives what evidence keeps: JSON scalars, without what could not be read.

    Clocks in MHz, temperature in degrees Celsius, power in watts. Of the busy readings, "sm_mhz" is the
    median, "sm_drift" the last third's median over the first's, less 1, and "throttle" every reason that
    held the clocks; of the others the largest is told.
    """
    read, busy = readings(states), readings(states, busy=True)
    scalars: dict[str, Any] = {"readings": len(busy)} if read else {}
    if clocks := figures(busy, "sm_mhz"):
        scalars |= {"sm_mhz": statistics.median(clocks), "sm_mhz_min": min(clocks), "sm_mhz_max": max(clocks)}
    if limits := figures(read, "max_sm_mhz"):
        scalars["sm_mhz_limit"] = max(limits)
    if parts := thirds(clocks):
        scalars["sm_drift"] = round(parts[1] / parts[0] - 1, 4)
    if memory := figures(busy, "mem_mhz"):
        scalars["mem_mhz"] = min(memory)
    if figures(read, "reasons"):
        scalars["throttle"] = ", ".join(words(busy))
    for name in ("temperature", "power", "power_limit", "utilisation", "ecc_errors"):
        if values := figures(read, name):
            scalars[name] = max(values)
    if free := figures(read, "free_bytes"):
        scalars["gpu_free_bytes"] = min(free)
    if foreign := figures(read, "foreign"):
        scalars["foreign_processes"] = max(map(len, foreign))
    for state in states:
        if state.unwatched:
            scalars["unwatched"] = state.unwatched
    if host := last_host(states):
        scalars |= host.to_json()
    return scalars
