"""The state of the machine is watched while something is timed; evidence keeps a summary.

    watch.begin(); ... watch.sample() between rounds ...; states = watch.end()
    unfit(states)    # one line, or None (perf/measure/unfit.py)
    summary(states)  # what evidence keeps

The machine is only watched: neither clocks nor power are ever changed.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perf.measure.host import Host, HostReader
from perf.measure.nvml import Gpu, Reading, Unwatched

EVERY = 0.01  # seconds between two looks
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


class Watch:
    """Looks at the machine when told to, in the caller's thread: on a GPU while it works through queued rounds,
    on the CPU between rounds. There is no thread that could disturb what is timed.

    `unwatched` says in one line why a GPU can't be read (no nvidia-ml-py, no driver); its host still is.
    A look within `EVERY` seconds of the last one is left out. Making a Watch touches no GPU.
    """

    def __init__(self, device: torch.device, read: Callable[[bool], Reading] | None = None) -> None:
        self.device = device
        self.unwatched: str | None = None
        self._read = read

    def begin(self) -> None:
        """Forgets what was seen before."""
        if self._read is None and self.unwatched is None and self.device.type == "cuda":
            try:
                self._read = Gpu(self.device).read
            except Unwatched as reason:
                self.unwatched = str(reason)
        self._states = [State(self.device.type, 0.0, gpu=self._read(True), busy=False)] if self._read else []
        self._host = HostReader()
        self._started = time.monotonic()
        self._due = 0.0

    def sample(self) -> None:
        """Looks at the GPU's clocks, or at the CPU's where it is the CPU that is timed."""
        seconds = time.monotonic() - self._started
        if seconds < self._due:
            return
        self._due = seconds + EVERY
        if self._read:
            self._states.append(State(self.device.type, seconds, gpu=self._read(False)))
        elif self.device.type == "cpu":
            self._host.sample()

    def end(self) -> tuple[State, ...]:
        """Gives all states since the beginning, and the host over all of them."""
        last = State(self.device.type, time.monotonic() - self._started, gpu=self._read(True) if self._read else None,
                     host=self._host.read(), busy=False, unwatched=self.unwatched)
        return *self._states, last
