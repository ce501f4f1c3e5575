"""The host tells of itself during a measurement: company, load, frequency, heat, memory.

Threads that wait for one another by spinning lose far more to a neighbour than its share: on 2 busy cores the same
forward pass took 13 ms and 2300 ms. So a row measured in company is marked.
"""
from __future__ import annotations

import os
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from perf.measure.memory import free_bytes

FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")  # kHz; absent in most virtual machines
SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")  # those of CPUs
TOLERATED = 0.1  # of one core
RESOLUTION = 0.03  # seconds; the kernel counts in hundredths
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class Foreign:
    """Counts the cores that other processes kept busy on average since this was made, among those that this process may
    run on."""

    def __init__(self) -> None:
        self._cores = _own_cores()
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
    return max(0.0, len(_own_cores()) * physical / logical - threads)


def _own_cores() -> frozenset[int]:
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


@dataclass(frozen=True)
class Host:
    """Is one look at the host, `seconds` after the measurement began; the first three count from there."""

    seconds: float
    foreign_cores: float  # that other processes kept busy, on average
    pages_read_back: int  # by this process, from swap or from a file: major page faults
    spare_cores: float  # that torch's threads leave idle
    load: float  # the kernel's average of the last minute
    free_bytes: int
    cpu_mhz: float | None = None  # median of the samples
    cpu_temperature: float | None = None  # degrees Celsius

    def to_json(self) -> dict[str, Any]:
        """Gives JSON scalars, and leaves out what could not be read."""
        scalars = {"foreign_cores": round(self.foreign_cores, 3), "load": round(self.load, 2),
                   "free_bytes": self.free_bytes, "pages_read_back": self.pages_read_back,
                   "cpu_mhz": self.cpu_mhz, "cpu_temperature": self.cpu_temperature}
        return {name: value for name, value in scalars.items() if value is not None}


class HostReader:
    """Reads the host since this was made: `sample()` between rounds, `read()` after the last."""

    def __init__(self) -> None:
        self._foreign = Foreign()
        self._faults = _major_faults()
        self._mhz: list[float] = []

    def sample(self) -> None:
        """Reads the frequency, all that changes within a measurement, in some 20 us."""
        mhz = _mhz()
        if mhz is not None:
            self._mhz.append(mhz)

    def read(self) -> Host:
        """Reads everything, in about a millisecond, more where there are many sensors."""
        return Host(seconds=self._foreign.seconds, foreign_cores=self._foreign.cores,
                    pages_read_back=_major_faults() - self._faults, spare_cores=spare_cores(torch.get_num_threads()),
                    load=psutil.getloadavg()[0], free_bytes=free_bytes(torch.device("cpu")),
                    cpu_mhz=statistics.median(self._mhz) if self._mhz else None, cpu_temperature=_temperature())


def vnni() -> bool:
    """Tells whether the CPU multiplies int8 in one instruction; without it int8 is tens of times slower."""
    return bool(torch.cpu._is_vnni_supported())


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _mhz() -> float | None:
    """Reads the first core's frequency: that of each would cost a file a core."""
    try:
        return int(FREQUENCY.read_text()) / 1e3
    except (OSError, ValueError):
        return None


def _temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    sensors = psutil.sensors_temperatures()
    return max((sensor.current for name in SENSORS for sensor in sensors.get(name, ())), default=None)
