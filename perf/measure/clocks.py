"""Clocks turn a call into seconds: by replay of its CUDA graph, by CUDA events, or by the CPU's monotonic clock.

A clock is `prepare(fn)`, which warms up and says what to call, how often and what to do before each
round, and a `timer`, a callable object that pytest-benchmark's `pedantic` and asv's `timer` take alike.
`renew` writes new values into what the call reads: before each call that warms up, and before each round.
"""
from __future__ import annotations

import functools
import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from perf.measure.cuda_graph import Uncapturable, capture

Call = Callable[[], Any]

STABLE = 0.1  # warm when three calls in a row lie this close together
FEWEST_ROUNDS = 3
SHORTEST_ROUND = 200e-6  # on the CPU: 4000 times what its clock resolves
TELLS_WAITS = hasattr(resource, "RUSAGE_THREAD")  # the kernel counts how often one thread waits: Linux


@dataclass(frozen=True)
class Plan:
    """Says how to time a call: `rounds` readings of `iterations` calls, `setup` before each round.

    `call` stands for the call given: itself, or the replay of its graph; `no_graph` says why not that.
    `seconds` is what a round takes, setup included, `host` what the host takes to launch the call.
    """

    call: Call
    rounds: int
    iterations: int
    setup: Call | None
    seconds: float
    clock: str
    host: float | None = None
    no_graph: str | None = None


class CpuClock:
    """Measures wall-clock time on the CPU, with the threads that torch was given."""

    budget = 0.4  # seconds a cell
    warm_up = 0.1  # seconds, and at least two calls
    most = 100  # rounds

    def __init__(self) -> None:
        self.timer: Callable[[], Any] = time.perf_counter

    @property
    def name(self) -> str:
        return f"perf_counter, {torch.get_num_threads()} threads"

    def prepare(self, fn: Call, *, graph: bool = True, renew: Call | None = None) -> Plan:
        """Warms `fn` up and chooses its rounds. There is no graph to take here, whatever `graph` allows."""
        seconds = _warm_up(fn, self.warm_up, lambda: None, renew)
        iterations = max(1, math.ceil(SHORTEST_ROUND / seconds))
        whole = seconds * iterations + (_host_seconds(renew, lambda: None) if renew else 0.0)
        return Plan(fn, _rounds(self.budget, whole, self.most), iterations, renew, whole, self.name)


class Reading:
    """Is a moment on the GPU, recorded as an event; the difference of two waits for the later one."""

    __slots__ = ("event", "overhead")

    def __init__(self, overhead: float) -> None:
        self.overhead = overhead
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: Reading) -> float:
        self.event.synchronize()
        return max(start.event.elapsed_time(self.event) / 1e3 - self.overhead, 0.0)  # the event gives milliseconds


class CudaTimer:
    """Records readings lazily: one neither waits for the GPU nor makes it wait.

    `overhead` is what a pair of readings shows of itself: the seconds between the first event and a
    kernel's start, and between its end and the second. It is measured (`CudaClock.calibrate`) and taken off.
    """

    __name__ = "cuda_events"
    overhead = 0.0

    def __call__(self) -> Reading:
        return Reading(self.overhead)


class CudaClock:
    """Measures the GPU time of a call from a cold L2 cache, by replaying its CUDA graph between two events.

    A call that can't be captured is launched between the events. Before each round a buffer twice the
    size of the L2 is written, as often as it takes to keep the GPU busy while the host launches what
    follows, so that launching is not part of the time.
    """

    budget = 0.2
    warm_up = 0.2
    most = 500
    name = "cuda graph, L2 flushed"
    by_events = "cuda events, L2 flushed"
    longest_flush = 10e-3  # seconds; a call that takes longer to launch shows its launching
    slow = 0.1  # seconds of a call from which on launching is nothing, and a pilot too long

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.timer = CudaTimer()

    @functools.cached_property
    def _buffer(self) -> torch.Tensor:
        size = 2 * torch.cuda.get_device_properties(self.device).L2_cache_size
        return torch.empty(size, dtype=torch.int8, device=self.device)

    def _flush(self, times: int) -> None:
        for _ in range(times):
            self._buffer.zero_()

    def _synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def prepare(self, fn: Call, *, graph: bool = True, renew: Call | None = None) -> Plan:
        """Warms `fn` up, captures it and chooses its rounds; without `graph` it is launched between the events."""
        seconds = _warm_up(fn, self.warm_up, self._synchronize, renew)
        host = _host_seconds(fn, self._synchronize) if seconds < self.slow else None
        call, reason = fn, None if graph else "it was asked for without one"
        if graph:
            try:
                call = capture(fn)
            except Uncapturable as refusal:
                reason = str(refusal)
        self.timer.overhead = self._overhead_by_events if reason else self._overhead_by_graph
        if seconds >= self.slow:
            times, seconds = 1, seconds + self._flush_seconds
        else:
            launch = host or 0.0 if reason else _host_seconds(call, self._synchronize)
            times = max(1, math.ceil(min(1.5 * launch, self.longest_flush) / self._flush_seconds))
            seconds = self._gpu_seconds(lambda: self._flush(times), call) + launch + times * self._flush_seconds
        before = renew or (lambda: None)
        seconds += self._gpu_seconds(lambda: self._flush(1), before) if renew else 0.0

        def setup() -> None:
            before()
            self._flush(times)

        return Plan(call, _rounds(self.budget, seconds, self.most), 1, setup, seconds,
                    self.by_events if reason else self.name, host, reason)

    @functools.cached_property
    def _flush_seconds(self) -> float:
        return self._gpu_seconds(lambda: None, lambda: self._flush(1))

    @functools.cached_property
    def _overhead_by_events(self) -> float:
        return self._overhead(lambda fn: fn)

    @functools.cached_property
    def _overhead_by_graph(self) -> float:
        return self._overhead(capture)

    def _overhead(self, wrap: Callable[[Call], Call]) -> float:
        """Measures what readings around a call show of themselves: twice that of one empty kernel, less that of two."""
        one = torch.zeros(1, device=self.device)

        def kernels(count: int) -> Call:
            return lambda: [one.add_(0) for _ in range(count)]

        single, double = (self._gpu_seconds(lambda: self._flush(4), wrap(kernels(count)), 21) for count in (1, 2))
        return max(0.0, 2 * single - double)

    def _gpu_seconds(self, before: Call, fn: Call, times: int = 3) -> float:
        """Measures the median GPU time of `fn` after `before`, its readings as they are."""
        plain, seconds = CudaTimer(), []
        for _ in range(times):
            before()
            start = plain()
            fn()
            seconds.append(plain() - start)
        return max(statistics.median(seconds), 1e-6)


Clock = CpuClock | CudaClock


@functools.cache
def clock(device: torch.device) -> Clock:
    """Gives the clock of a device. Creating it touches no GPU."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def _warm_up(fn: Call, longest: float, synchronize: Call, renew: Call | None = None) -> float:
    """Calls `fn`, on new inputs each time, until three agree or `longest` seconds are spent; gives the fewest seconds
    of the last three, for others may have had the core in between."""
    seconds: list[float] = []
    end = time.perf_counter() + longest
    while len(seconds) < 2 or time.perf_counter() < end:
        if renew:
            renew()
            synchronize()
        start = time.perf_counter()
        fn()
        synchronize()
        seconds.append(time.perf_counter() - start)
        last = seconds[-3:]
        if len(seconds) > 2 and max(last) - min(last) <= STABLE * min(last):
            break
    return min(seconds[-3:])


def launching(fn: Call, synchronize: Call, times: int = 3) -> list[float]:
    """Measures how long the host takes to launch `fn`, in seconds, each of `times` on an idle device."""
    seconds = []
    for _ in range(times):
        synchronize()
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    synchronize()
    return seconds


def _host_seconds(fn: Call, synchronize: Call) -> float:
    return statistics.median(launching(fn, synchronize))


def _rounds(budget: float, seconds: float, most: int) -> int:
    return min(most, max(FEWEST_ROUNDS, int(budget / seconds)))


@dataclass(frozen=True)
class Moment:
    """Holds seconds of the wall clock and of the process's CPU time, and how often the thread has waited so far."""

    wall: float
    cpu: float
    waits: int

    def __sub__(self, start: Moment) -> float:
        wall = self.wall - start.wall
        return wall if self.waits != start.waits else min(wall, self.cpu - start.cpu)


class CoreTimer:
    """Times one thread on a CPU without the seconds in which others had the core, where the kernel `TELLS_WAITS`.

    As long as a thread doesn't wait for anything, what it takes beyond the CPU time of its process was taken by others:
    processes that the kernel ran in its place, or the host of a virtual machine. A round that waited (for another
    thread, a file, a lock) has the time of the wall clock. On an idle machine the two agree.
    """

    __name__ = "core_time"

    def __call__(self) -> Moment:
        return Moment(time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
