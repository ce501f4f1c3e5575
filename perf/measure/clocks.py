"""What turns a call into seconds: CUDA events, or the CPU's monotonic clock.

A clock is `prepare(fn)`, which warms up and chooses the rounds, and a `timer`, a callable object
that pytest-benchmark's `pedantic` and asv's `timer` take alike.
"""
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]

WARM_UP_SECONDS = 0.2  # and at least two calls
STABLE = 0.1  # warm when three calls in a row lie this close together
SHORTEST_ROUND = 200e-6  # on the CPU: 4000 times what its clock resolves


@dataclass(frozen=True)
class Plan:
    """How to time a call: `rounds` readings of `iterations` calls, `setup` before each round."""

    rounds: int
    iterations: int
    setup: Call | None


class CpuTimer:
    """Seconds of the monotonic clock."""

    __name__ = "perf_counter"

    def __call__(self) -> float:
        return time.perf_counter()


class CpuClock:
    """Wall-clock time on the CPU, with the threads torch was given."""

    budget = 0.6  # seconds a cell

    def __init__(self) -> None:
        self.timer = CpuTimer()

    @property
    def name(self) -> str:
        return f"perf_counter, {torch.get_num_threads()} threads"

    def prepare(self, fn: Call) -> Plan:
        seconds = _warm_up(fn, lambda: None)
        iterations = max(1, math.ceil(SHORTEST_ROUND / seconds))
        return Plan(_rounds(self.budget, seconds * iterations, most=100), iterations, None)


class Reading:
    """A moment on the GPU, recorded as an event; a difference of two waits for the later one."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: Reading) -> float:
        self.event.synchronize()
        return start.event.elapsed_time(self.event) / 1e3  # the event gives milliseconds


class CudaTimer:
    """Lazy readings: recording one neither waits for the GPU nor makes it wait."""

    __name__ = "cuda_events"

    def __call__(self) -> Reading:
        return Reading()


class CudaClock:
    """GPU time between two events, from a cold L2 cache.

    Before each round a buffer twice the size of the L2 is written, as often as it takes to keep the
    GPU busy while the host launches the call, so that launching is not part of the time.
    """

    budget = 0.15
    name = "cuda events, L2 flushed"
    longest_flush = 10e-3  # seconds; a call that takes longer to launch shows its launching
    slow = 0.1  # seconds of a call from which on launching is nothing, and a pilot too long

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.timer = CudaTimer()
        self._buffer: torch.Tensor | None = None

    def _flush(self, times: int) -> None:
        if self._buffer is None:
            size = 2 * torch.cuda.get_device_properties(self.device).L2_cache_size
            self._buffer = torch.empty(size, dtype=torch.int8, device=self.device)
        for _ in range(times):
            self._buffer.zero_()

    def _synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def prepare(self, fn: Call) -> Plan:
        seconds = _warm_up(fn, self._synchronize)
        times, once = 1, 0.0
        if seconds < self.slow:
            launch = _host_seconds(fn, self._synchronize)
            once = self._gpu_seconds(lambda: None, lambda: self._flush(1))
            times = max(1, math.ceil(min(1.5 * launch, self.longest_flush) / once))
            seconds = self._gpu_seconds(lambda: self._flush(times), fn) + launch
        return Plan(_rounds(self.budget, seconds + times * once, most=300), 1, lambda: self._flush(times))

    def _gpu_seconds(self, before: Call, fn: Call) -> float:
        """Median GPU time of `fn` after `before`."""
        seconds = []
        for _ in range(3):
            before()
            start = self.timer()
            fn()
            seconds.append(self.timer() - start)
        return max(statistics.median(seconds), 1e-6)


Clock = CpuClock | CudaClock


def clock(device: torch.device) -> Clock:
    """The clock of a device. Creating it touches no GPU."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def _warm_up(fn: Call, synchronize: Call) -> float:
    """Calls `fn` until three calls in a row agree or the time for it is spent; seconds a call."""
    seconds: list[float] = []
    end = time.perf_counter() + WARM_UP_SECONDS
    while len(seconds) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        fn()
        synchronize()
        seconds.append(time.perf_counter() - start)
        last = seconds[-3:]
        if len(seconds) > 2 and max(last) - min(last) <= STABLE * min(last):
            break
    return statistics.median(seconds[-3:])


def _host_seconds(fn: Call, synchronize: Call) -> float:
    """How long the host takes to launch `fn`."""
    seconds = []
    for _ in range(3):
        synchronize()
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    synchronize()
    return statistics.median(seconds)


def _rounds(budget: float, seconds: float, most: int, fewest: int = 3) -> int:
    return min(most, max(fewest, int(budget / seconds)))
