"""Launch pairs: the same benchmarks in two fresh processes, base and head, that take turns on one device.

    with Pair(base, head, "cpu") as pair:
        pair.prepare(workload)                     # what each side shows, as a verdict takes it
        pair.log_ratio(workload)                   # log(head / base): one sample of a verdict

Both are alive all the time and only one of them works. The turns go A B B A A B B A ..., each of some rounds, so that
a machine that drifts slows both alike. A turn stands for its median, the lower of two; A B and B A for their mean, for
in one of them only the first side had the turn before and finds the caches as it left them; the pair for the median of
these means: a disturbance that hits a few turns changes nothing. (Of equal pairs on a CPU this spreads least, minima
of processes most: docs/verdict.md.) Both are held to the same core: on another one, perhaps of another socket, the
same Python launches the same kernels in 6 ms or in 9 (perf/records/h200-2026-11-30). So a pair bears company on other
cores; without an idle one to go to, others take part of its own.
"""
from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from perf.bench import NO_MEMORY
from perf.compare.nursery import Nursery
from perf.compare.process import Died, Process, both
from perf.compare.side import Side
from perf.compare.worker import LONG
from perf.measure.host import Foreign
from perf.verdict import verdict
from perf.workloads.workload import Workload

# That a pair times one benchmark. On a GPU more tells no more: log ratios of A/A spread by as much after 0.1 s as after
# 1 s (perf/records/h200-2026-11-26), for they differ from launch to launch. On a CPU those of most benchmarks spread by
# less and less, up to 40 turns at least (perf/records/cpu-2026-11-30, turns).
SECONDS = {"cpu": 1.5, "cuda": 0.25}
LATE = 1.5  # times as long a CPU's turns may take before the rest is left out: others have a part of the core
TURN = 0.01  # seconds of a turn, if its rounds are shorter
LAUNCHES, LAUNCHING_TURNS = 8, 4  # of each side, for the host's seconds
TURNS = (4, 64)  # of each side: the fewest, whatever they take, and the most
PREPARING = 600.0  # seconds after which a worker that prepares or proves has hung: a cold compiler takes minutes
ANSWERING = 60.0  # the same of everything else, beside what is to be timed
TOLERATED = 0.75  # of a core that others may keep busy, beyond the cores that the pair leaves idle
SHORTEST = 0.2  # seconds below which the kernel's hundredths don't tell company from nothing
LOOK = 0.1  # seconds to see which core is idle

Answer = Mapping[str, Any]


@dataclass
class Times:
    """Holds the seconds of one call, in each round of a pair, and why they are not to be trusted."""

    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    unfit: str | None = None
    mhz: dict[str, float] = field(default_factory=dict)  # of the GPU, by side
    host: float | None = None  # log ratio of the host's seconds, where launching takes longer than what is launched


class Pair:
    """Is two workers on one device. `head_first` says which of them has the first turn; alternate it from pair to pair.

    `times` are those of the last `log_ratio`, `imports` what its workers had to import. Every method raises Died, a
    ValueError, for a worker that dies or hangs. With a `nursery` the workers are forked.
    """

    def __init__(self, base: Side, head: Side, device: str, *, head_first: bool = False,
                 nursery: Nursery | None = None) -> None:
        self.device, self.head_first = device, head_first
        self.times = Times()
        self.imports: tuple[str, ...] = ()
        self.base = Process("base", base, device, nursery)
        try:
            self.head = Process("head", head, device, nursery)
        except BaseException:
            self.base.close()
            raise

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends both workers."""
        try:
            self.base.close()
        finally:
            self.head.close()

    def prepare(self, w: Workload, *, check: bool = True,
                changed: Sequence[str] = ()) -> tuple[verdict.Side, verdict.Side]:
        """Builds it on both sides at once; `check` holds each against its oracle and counts it, otherwise a Side says
        only whether it can be timed. `changed` names the functions in whose bodies alone the sides differ."""
        request: dict[str, Any] = {"prepare": asdict(w), "check": check, "changed": list(changed)}
        base, head = both(self.base, self.head, PREPARING, **request)
        if _no_memory(base) or _no_memory(head):
            base, head = self._one_by_one(request)
        broken = "failed" in base and "failed" in head
        return _side(base, failed="missing"), _side(head, failed="missing" if broken else "wrong")

    def _one_by_one(self, request: Mapping[str, Any]) -> tuple[Answer, Answer]:
        """Gives each side the device to itself for checking, so that neither is in the other's way. What fits once and
        not twice neither side can do, since no pair can take turns; but it was counted."""
        self.head.ask(ANSWERING, release=True)
        base = self.base.ask(PREPARING, **request)
        self.base.ask(ANSWERING, release=True)
        head = self.head.ask(PREPARING, **request)
        if not _no_memory(base):
            again = self.base.ask(PREPARING, **{**request, "check": False})
            if _no_memory(again) and not _no_memory(head):
                lacking = {"missing": f"{again['missing']}, as the other side has it too"}
                base, head = {**base, **lacking}, {**head, **lacking}
        return base, head

    def log_ratio(self, w: Workload, rounds: int | None = None) -> float:
        """Takes one sample: the log of the head's time over the base's, for what was prepared last, `w`.

        `rounds` of each side; by default as many as take `SECONDS`, and at least a few.
        """
        self.times = Times()
        order = (self.head, self.base) if self.head_first else (self.base, self.head)
        seconds, host = _plan(order, choose_core() if self.device == "cpu" else self._core)
        company = Company((self.base.pid, self.head.pid))
        of_turn, turns = schedule(seconds, rounds, self.device.partition(":")[0])
        ratios, begun = [], time.monotonic()
        for turn in range(turns):
            late = self.device == "cpu" and time.monotonic() - begun > LATE * SECONDS["cpu"]
            if late and rounds is None and turn >= TURNS[0] and turn % 2 == 0:
                break
            times = {}
            for process in order if turn % 2 == 0 else reversed(order):
                times[process.side] = _ask(process, ANSWERING + 20 * seconds * of_turn, rounds=of_turn)["seconds"]
            self.times.base += times["base"]
            self.times.head += times["head"]
            ratios.append(_log_ratio(times))
        if host > min(statistics.median(self.times.base), statistics.median(self.times.head)):
            self.times.host = self._host_log_ratio(order, ANSWERING + 20 * LAUNCHES * host)
        states = self._states(order)
        self.times.unfit = next(filter(None, (state["unfit"] for state in states)), None)
        self.times.mhz = {process.side: state["state"]["sm_mhz"] for process, state in zip(order, states, strict=True)
                          if "sm_mhz" in state.get("state", {})}
        self.imports = tuple(states[0]["imports"])
        if self.device == "cpu":
            self.times.unfit = self.times.unfit or company.unfit()
        return _middle(ratios)

    @functools.cached_property
    def _core(self) -> int | None:
        """Chooses a core that was idle when the pair began; on a GPU's machine one stays so, and to look takes time."""
        return choose_core()

    def _host_log_ratio(self, order: Sequence[Process], limit: float) -> float:
        """Takes turns at launching the call, as at running it."""
        ratios = []
        for turn in range(LAUNCHING_TURNS):
            ratios.append(_log_ratio({process.side: _ask(process, limit, launches=LAUNCHES)["seconds"]
                                      for process in (order if turn % 2 == 0 else reversed(order))}))
        return _middle(ratios)

    def _states(self, order: Sequence[Process]) -> list[Answer]:
        """Returns the machine as both sides saw it. Raises Died where what was timed is wrong, the head's first.

        That is proved here, by ceilings that a busy machine may take minutes to measure.
        """
        states = {process.side: _ask(process, PREPARING, state=True) for process in order}
        for side in ("head", "base"):
            if reason := states[side].get("wrong"):
                raise Died(side, reason)
        return [states[process.side] for process in order]


def _log_ratio(times: Mapping[str, Sequence[float]]) -> float:
    """Returns the log of the head's time over the base's. Raises Died where no time passed."""
    median = {side: statistics.median_low(times[side]) for side in ("head", "base")}
    for side, seconds in median.items():
        if seconds <= 0:
            raise Died(side, "no time passed between the clock's two readings: the call works elsewhere or not at all")
    return math.log(median["head"] / median["base"])


def _middle(ratios: Sequence[float]) -> float:
    """Returns the median of what A B and B A say together, two turns of each side."""
    return statistics.median(map(statistics.fmean, zip(ratios[::2], ratios[1::2], strict=True)))


def _ask(process: Process, limit: float, **request: Any) -> Answer:
    """Returns a worker's answer. Raises Died where it can't go on; neither side is to blame where memory lacks for both
    at once."""
    answer = process.ask(limit, **request)
    if "missing" in answer or "failed" in answer:
        raise Died("both" if "missing" in answer else process.side, str(answer.get("missing", answer.get("failed"))))
    return answer


def _plan(order: Sequence[Process], core: int | None) -> tuple[float, float]:
    """Returns the seconds of a round of the slower side, and of the host that launches the call there, 0 where a clock
    does not tell. Both have the same clock: where one side's call can't be captured as a graph, the other's is launched
    as well, or the launching would be part of one time only."""
    plans = [_ask(process, PREPARING, plan=core) for process in order]
    if len({plan["clock"] for plan in plans}) > 1:
        plans = [_ask(process, PREPARING, plan=core, graph=False) for process in order]
    return max(plan["seconds"] for plan in plans), max(plan.get("host") or 0.0 for plan in plans)


def schedule(seconds: float, rounds: int | None = None, device: str = "cpu") -> tuple[int, int]:
    """Chooses the rounds of a turn, and the turns of each side: an even number, for A B B A to be whole."""
    skipped = int(seconds < LONG[device])  # the first of a turn, which is not counted: so two others at least are
    of_turn = max(1 + skipped, round(TURN / seconds))
    worked = of_turn + skipped
    turns = SECONDS[device] / (2 * worked * seconds) if rounds is None else rounds / of_turn
    return of_turn, 2 * math.ceil(min(max(turns, TURNS[0]), TURNS[1]) / 2)


def _no_memory(answer: Answer) -> bool:
    return NO_MEMORY in str(answer.get("missing"))


def _side(answer: Answer, failed: str) -> verdict.Side:
    reasons: dict[str, Any] = {"missing": answer.get("missing"), "wrong": answer.get("wrong")}
    if reason := answer.get("failed"):
        reasons[failed] = reason
    return verdict.Side(answer.get("counters", {}), answer.get("error"), answer.get("peak_bytes"), **reasons,
                        kernels=answer.get("kernels", {}), launches=tuple(answer.get("launches", ())),
                        seconds=answer.get("kernel_seconds", {}), compile_seconds=answer.get("compile_seconds"),
                        written=answer.get("written"))


class Company:
    """Watches other processes from when it is made; `pids` are the pair's workers, which are no company."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._workers = [psutil.Process(pid) for pid in pids]
        self._spent = self._seconds()
        self._foreign = Foreign()

    def _seconds(self) -> float:
        return sum(times.user + times.system for times in (worker.cpu_times() for worker in self._workers))

    def cores(self) -> float:
        """Gives how many cores others kept busy, on average."""
        return max(0.0, self._foreign.cores - (self._seconds() - self._spent) / self._foreign.seconds)

    def unfit(self) -> str | None:
        """Says why the pair is not to be trusted, in one line."""
        idle = cores_allowed() - 1
        busy = self.cores()
        if self._foreign.seconds < SHORTEST or busy <= idle + TOLERATED:
            return None
        return (f"other processes kept {busy:.1f} of {idle + 1} cores busy, so they took part of the one that is "
                "measured on: end them")


def cores_allowed() -> int:
    """Counts the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_core() -> int | None:
    """Chooses the idlest of the cores allowed, after a look at them; None where a process can't be held to one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = psutil.cpu_times(percpu=True)
    time.sleep(LOOK)
    after = psutil.cpu_times(percpu=True)
    return max(os.sched_getaffinity(0), key=lambda core: after[core].idle - before[core].idle)
