"""The machine is watched while something is timed: evidence keeps a summary of its state, and rules say whether it was
fit, and how often an unfit measurement is made again.

    watch.begin(); ... watch.sample() between rounds ...; states = watch.end()
    unfit(states)    # one line, or None
    summary(states)  # what evidence keeps

The machine is only watched: neither clocks nor power are ever changed.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from perf.measure.host import Host, HostReader
from perf.measure.nvml import Gpu, NoNvml, Reading

EVERY = 0.01  # seconds between two looks
FEWEST = 6  # readings from which on a drift is told from a flicker

# What holds clocks down and is the machine's fault, with what to do. The power cap is not among them: a large
# matmul reaches it by design on a healthy GPU, so it is told, and so are the clocks that it costs.
THROTTLED = {
    "hw_thermal_slowdown": "let the GPU cool and see to its cooling",
    "sw_thermal_slowdown": "let the GPU cool and see to its cooling",
    "hw_power_brake_slowdown": "see to the machine's power supply",
    "hw_slowdown": "ask `nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER` what slows the GPU",
}
EXPLAINED = {"sw_power_cap", "applications_clocks_setting", "sync_boost", "display_clock_setting"}
DRIFT = 0.05  # of the SM clock, from the first third of the readings to the last
LEAST = 0.6  # of its largest SM clock, that a busy GPU reaches
LEAST_HELD = 0.4  # the same where all readings agree: locked on purpose, of which NVML does not tell
LEAST_MEMORY = 0.9  # of its largest memory clock; compute on some GPUs is 2 to 10 % below it by design
COMPANY = 0.5  # cores that others may keep busy on average, and
SPARE = 0.25  # this much of each core that the timed threads leave idle: memory and turbo are everyone's
SHORTEST = 0.2  # seconds below which the kernel's hundredths don't tell company from nothing
READ_BACK = 100  # pages from disk, and
SCARCE = 2 ** 31  # so few bytes free: pages were pushed out; with more, a library was read for the first time
LOW_MEMORY = 2 ** 28  # bytes


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
            except NoNvml as reason:
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


def unfit(states: Sequence[State]) -> str | None:
    """Says what is wrong, why and what to do, in one line; None for a machine that was fit, or that tells nothing.

    On a GPU its clocks, heat and company count; on the CPU, the host's company and memory.
    """
    if not states:
        return None
    if states[0].device == "cuda":
        read, busy = readings(states), readings(states, busy=True)
        return (_throttling(busy) or _sharing(read) or _drifting(busy) or _slow(busy) or _slow_memory(busy)
                or _damage(read))
    host = last_host(states)
    return (_disturbance(host) or _short_of_memory(host)) if host else None


def _throttling(busy: Sequence[Reading]) -> str | None:
    slowed = [one for one in busy if THROTTLED.keys() & set(one.reasons or ())]
    if not slowed:
        return None
    causes = [word for word in THROTTLED if word in words(slowed)]
    heat = max(figures(slowed, "temperature"), default=None)
    return (f"the GPU throttled in {len(slowed)} of {len(busy)} readings ({', '.join(causes)}"
            f"{'' if heat is None else f', {heat} C'}): {THROTTLED[causes[0]]}")


def _sharing(read: Sequence[Reading]) -> str | None:
    foreign = dict.fromkeys(process for one in read for process in one.foreign or ())
    if not foreign:
        return None
    named = ", ".join(f"{pid} ({name})" for pid, name in foreign)
    return (f"the GPU is shared with process {named}, which takes a part of its time: wait for it to end, or choose "
            "another GPU by CUDA_VISIBLE_DEVICES")


def _drifting(busy: Sequence[Reading]) -> str | None:
    parts = thirds(figures(busy, "sm_mhz"))
    if parts is None or abs(parts[1] / parts[0] - 1) <= DRIFT or "sw_power_cap" in words(busy):
        return None  # under the power cap a clock settles while it is measured: that is told as its drift
    first, last = parts
    way = "fell" if last < first else "rose"
    return (f"the SM clock {way} from {first:.0f} to {last:.0f} MHz while it was timed, so the samples are of two "
            "speeds: let the GPU settle, and lock its clocks if it does not (nvidia-smi -lgc)")


def _slow(busy: Sequence[Reading]) -> str | None:
    clocks, most = figures(busy, "sm_mhz"), max(figures(busy, "max_sm_mhz"), default=None)
    if not clocks or most is None or EXPLAINED & set(words(busy)):
        return None
    median = statistics.median(clocks)
    if median >= (LEAST_HELD if min(clocks) == max(clocks) else LEAST) * most:
        return None
    return (f"the busy GPU ran at {median:.0f} of its {most} MHz and gives no reason: see "
            "`nvidia-smi -q -d CLOCK,PERFORMANCE`; `nvidia-smi -rgc` undoes a clock lock")


def _slow_memory(busy: Sequence[Reading]) -> str | None:
    clocks, most = figures(busy, "mem_mhz"), max(figures(busy, "max_mem_mhz"), default=None)
    if not clocks or most is None or statistics.median(clocks) >= LEAST_MEMORY * most:
        return None
    return (f"the busy GPU's memory ran at {statistics.median(clocks):.0f} of its {most} MHz: see "
            "`nvidia-smi -q -d CLOCK,PERFORMANCE`; `nvidia-smi -rmc` undoes a clock lock")


def _damage(read: Sequence[Reading]) -> str | None:
    errors = figures(read, "ecc_errors")
    if not errors or errors[-1] == errors[0]:
        return None
    return (f"{errors[-1] - errors[0]} uncorrected memory errors (ECC) on the GPU while it was timed: its results "
            "can't be trusted; reset it, and have it replaced if they come again")


def _disturbance(host: Host) -> str | None:
    allowed = COMPANY + SPARE * host.spare_cores
    if host.seconds < SHORTEST or host.foreign_cores <= allowed:
        return None
    return (f"other processes kept {host.foreign_cores:.1f} cores busy (up to {allowed:.1f} are borne): threads that "
            "wait for one another lose far more than that; end them, or give torch fewer threads (OMP_NUM_THREADS)")


def _short_of_memory(host: Host) -> str | None:
    what_to_do = "end what else runs, or measure smaller shapes"
    if host.pages_read_back > READ_BACK and host.free_bytes < SCARCE:
        return f"{host.pages_read_back} pages had to be read back from disk, memory is short: {what_to_do}"
    if host.free_bytes < LOW_MEMORY:
        return f"only {host.free_bytes / 1e6:.0f} MB of memory are free, the machine may swap: {what_to_do}"
    return None


@dataclass
class Patience:
    """Decides whether an unfit measurement is made again, and when a session gives up.

    `retries` a workload and `most` a session; after `stop` workloads that stayed unfit, where none ever was
    fit, `hopeless` says so in one line. `pause` seconds before a retry let a disturbance end, or a GPU cool.
    """

    retries: int = 2
    most: int = 60
    stop: int = 5
    pause: float = 0.5
    spent: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    ever_fit: bool = field(default=False, init=False)
    reason: str | None = field(default=None, init=False)

    def again(self, reason: str | None, attempt: int) -> bool:
        """Decides whether to measure again: attempt `attempt`, from 0, was unfit for `reason` (None: it was fit)."""
        if reason is None:
            self.ever_fit = True
            return False
        if attempt < self.retries and self.spent < self.most:
            self.spent += 1
            return True
        self.invalid += 1
        self.reason = reason
        return False

    @property
    def hopeless(self) -> str | None:
        if self.ever_fit or self.invalid < self.stop:
            return None
        return (f"this machine was unfit for each of the first {self.invalid} workloads, so the others are not tried: "
                f"{self.reason}")
