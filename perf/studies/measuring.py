"""Gives the studies what they share: a workload timed by all of the harness's clocks at once, and a file of raw
records."""
from __future__ import annotations

import functools
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from perf.bench.precompile import precompile
from perf.bench.prepare import Preparer
from perf.bench.subject import Subject
from perf.measure import machine, roofline
from perf.measure.clocks import clock
from perf.measure.fitness import Watch, unfit
from perf.measure.sampling import median_interval
from perf.workloads.workload import Workload

ROUNDS = (5, 50)  # of a stopwatch: the fewest, and the most
STOPWATCH = 0.5  # seconds of it
PRECISION = 0.005


@dataclass(frozen=True)
class Measurement:
    """Holds seconds of one call: `gpu` by the clock (replay of its CUDA graph, else events), the median of `samples`;
    `eager` by a stopwatch around the call and the wait for the device, as a user's loop sees it; `replay` by one around
    a replay of its graph. A CPU has one time, by the clock and by the stopwatch."""

    workload: Workload
    gpu: float
    interval: float
    clock: str
    eager: float
    replay: float | None
    host: float | None
    no_graph: str | None
    weights: int
    error: float
    allowed: float
    counters: dict[str, int] = field(default_factory=dict)
    compiled: dict[str, float] = field(default_factory=dict)
    unfit: str | None = None
    samples: tuple[float, ...] = ()
    eager_interval: float = 0.0  # half of the 95 % interval of `eager`, relative to it; 0 in records from before
    replay_interval: float = 0.0

    @property
    def best(self) -> float:
        """Gives the seconds by the stopwatch, with a graph where there is one."""
        return self.replay if self.replay is not None else self.eager


class Study:
    """Measures on one device and writes every record as soon as it is known; a part that fails is one of them."""

    def __init__(self, device: torch.device, out: Path, seconds: float = float("inf")) -> None:
        self.device, self.out = device, out
        self.preparer, self.watch = Preparer(device), Watch(device)
        self.known: dict[Workload, Measurement] = {}
        self.failures: list[str] = []
        self.started, self.seconds = time.monotonic(), seconds
        out.parent.mkdir(parents=True, exist_ok=True)
        self.write("machine", {"id": machine.identity(), "revision": machine.revision(), **machine.fingerprint()})

    @functools.cached_property
    def ceilings(self) -> roofline.Ceilings:
        """Returns the machine's highest rates, which a time may not pass by much."""
        return roofline.ceilings(self.device, roofline.FASTEST, folder=self.out.parent)

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Appends a record to the file."""
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "at": round(time.monotonic() - self.started, 1), **record}) + "\n")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Records what fails inside, and lets the rest go on."""
        try:
            yield
        except Exception as error:  # of compilers and libraries: any
            reason = f"{name}: {type(error).__name__}: {_reason(error)}"
            self.failures.append(reason)
            self.write("failed", {"part": name, "reason": reason})
            print(f"  FAILED {reason}", flush=True)

    def compile_ahead(self, workloads: Sequence[Workload]) -> None:
        """Fills the compiler's caches by processes side by side; on a GPU, for one compiles a model after the other."""
        figures, failed = precompile(workloads, self.device)
        for name, seconds in figures.items():
            self.write("compiled", {"id": name, **seconds})
            print(f"  {name}: " + ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items()), flush=True)
        for reason in failed:
            self.write("failed", {"part": "compiling ahead", "reason": reason})
            print(f"  {reason}", flush=True)

    @property
    def left(self) -> float:
        """Gives the seconds that the study has left; below 0 they are spent."""
        return self.started + self.seconds - time.monotonic()

    def in_time(self, reserve: float = 0.0) -> None:
        """Raises TimeoutError where the study's seconds are spent, but for `reserve`: nothing more is begun."""
        if self.left < reserve:
            raise TimeoutError(f"not begun: {self.seconds - self.left:.0f} s of {self.seconds:.0f} are spent")

    def subject(self, w: Workload) -> Subject:
        """Makes a workload ready and calls it once. Raises ValueError, in one line, for what can't run here, and
        TimeoutError where the study's seconds are spent."""
        self.in_time()
        return Subject(self.preparer, w)

    def timed(self, w: Workload) -> Measurement:
        """Checks a workload, then times it; each once. Raises ValueError for one that is wrong."""
        if w not in self.known:
            self.known[w] = self._timed(w)
            self.write("timed", {"id": w.id, **asdict(self.known[w])})
            print(f"  {line(self.known[w])}", flush=True)
        return self.known[w]

    def _timed(self, w: Workload) -> Measurement:
        subject = self.subject(w)
        facts = subject.check()
        assert facts.error is not None
        assert facts.bound is not None
        assert facts.kept_bytes is not None
        eager, eager_interval = stopwatch(subject.call, self.device)
        ticking = clock(self.device)
        plan = subject.plan(ticking)
        samples, states = subject.sample(ticking, plan, self.watch, PRECISION)
        subject.prove(plan, samples.median, self.ceilings)
        graph = self.device.type == "cuda" and not plan.no_graph
        replay, replay_interval = stopwatch(plan.call, self.device) if graph else (None, 0.0)
        return Measurement(w, samples.median, samples.interval, plan.clock, eager, replay, plan.host, plan.no_graph,
                     facts.kept_bytes, facts.error, facts.bound, facts.counters, facts.compiled, unfit(states),
                     samples.seconds, eager_interval, replay_interval)


def stopwatch(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Gives the median seconds of a call and the wait for its end, and half of its 95 % interval relative to it."""
    seconds = readings(call, device)
    return statistics.median(seconds), median_interval(seconds)


def readings(call: Callable[[], Any], device: torch.device, seconds: float = STOPWATCH,
             rounds: tuple[int, int] = ROUNDS) -> list[float]:
    """Times single calls, each with the wait for its end, for `seconds` in all."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < rounds[0] or (time.perf_counter() < end and len(times) < rounds[1]):
        times.append(reading(call, device))
    return times


def reading(call: Callable[[], Any], device: torch.device) -> float:
    """Times one call and the wait for its end, of a device that was idle before."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _reason(error: Exception) -> str:
    """Gives the reason in one line. After a line that ends in "raised:" (torch.compile of its backend) the next is the
    reason; after a place in a kernel ("at 251:27:", of Triton's compiler), the last, behind the code and a ^."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")] or ["-"]
    if re.fullmatch(r"at \d+:\d+:", lines[0]):
        return f"{lines[0]} {lines[-1]}"
    return " ".join(lines[:2] if lines[0].endswith("raised:") else lines[:1])


def line(t: Measurement) -> str:
    """Writes a measurement in a line."""
    replay = "" if t.replay is None else f", replayed {1e3 * t.replay:.3f}"
    how = "graph" if t.clock.startswith("cuda graph") else t.clock.partition(",")[0]
    return (f"{t.workload.id}: {1e3 * t.gpu:.3f} ms ({how}), stopwatch {1e3 * t.eager:.3f}{replay}, "
            f"{t.weights / 1e6:.0f} MB" + "".join(f", {name} {value:.1f} s" for name, value in t.compiled.items()
                                                  if name != "graphs") + (f" UNFIT: {t.unfit}" if t.unfit else ""))
