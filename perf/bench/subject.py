"""A subject is a workload that is measured, by the one path that a pytest run, a comparison, `asv run` and the studies
all take.

    subject = Subject(preparer, workload)   # made ready and called once; raises Missing
    facts = subject.check()                 # it is right, by the kernel it declares, weighed and counted; raises Wrong
    plan = subject.plan(clock)              # it is warm; the plan's call is what is timed
    samples, states = subject.sample(clock, plan, watch, precision)
    subject.prove(plan, samples.median, ceilings)  # the timed call computes its result; raises Wrong
"""
from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

import attention
from attention import registry
from attention.testing import Report
from perf.bench import NO_MEMORY
from perf.bench.prepare import Preparer
from perf.bench.proof import Cheat, Spot, prove, too_fast
from perf.bench.treatments import why_not_compiled
from perf.measure import counters, memory, switches
from perf.measure.clocks import Clock, Plan
from perf.measure.compiling import Compiled, compiling
from perf.measure.fitness import State, Watch
from perf.measure.kernels import wrong_kernel
from perf.measure.roofline import Ceilings
from perf.measure.sampling import Samples, sample
from perf.system.tools import first_line
from perf.workloads.workload import Workload

Call = Callable[[], Any]
Part = Callable[[str], AbstractContextManager[Any]]  # is entered for each part of the work, by the part's name


class Missing(ValueError):
    """Says that the workload can't be measured here; the message says why, in one line."""


class Wrong(ValueError):
    """Says that the workload gets no time, for the reason that the message gives; `facts` holds what was measured
    before."""

    def __init__(self, reason: str, facts: Facts) -> None:
        super().__init__(reason)
        self.facts = facts


@dataclass
class Facts:
    """Holds a workload's measurements beside its time; the names are those of `Evidence`'s fields."""

    error: float | None = None
    bound: float | None = None
    loose: dict[str, str] = field(default_factory=dict)
    compiled: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    kernel_shares: dict[str, float] = field(default_factory=dict)
    attention_share: float | None = None
    peak_bytes: int | None = None
    kept_bytes: int | None = None
    reserved_bytes: int | None = None
    rss_bytes: int | None = None


class Subject:
    """Is one workload on one device, made ready and called once, in `first_seconds`, the compiler's among them.

    `around` changes the call before anything is measured (an injected fault); `compiles` is the context that collects
    the compiler's seconds. Every method raises Missing where memory is short or the compiler has no kernel, and
    whatever it raises, the switches of the whole process are set back before.
    """

    checked = False  # against its oracle

    def __init__(self, preparer: Preparer, workload: Workload, *, around: Callable[[Call], Call] = lambda call: call,
                 compiles: Callable[[], AbstractContextManager[Compiled]] = compiling,
                 part: Part = lambda name: nullcontext()) -> None:
        self.workload, self.device, self.part = workload, preparer.device, part
        self.name = f"{workload.variant} ({workload.phase})"
        self.launches: list[dict[str, Any]] = []  # of its device kernels, once it is checked
        self.graphs: list[Any] | None = None  # that its compiler made, once it is checked
        self.kernel_seconds: dict[str, float] = {}  # of one call under the profiler, once it is checked
        self.switches = switches.positions()
        self.spot: Spot | None = None
        if reason := preparer.why_not(workload):
            raise Missing(reason)
        with self._guard(), compiles() as compiled:
            with part("preparing"):
                try:
                    self.prepared = preparer.prepare(workload)
                except (ValueError, ImportError) as error:
                    raise Missing(first_line(error)) from error
            self.call = around(self.prepared.call)
            with part("first calls"):  # compilers and libraries make their plans
                started = time.monotonic()
                result = self.call()
                self.first_seconds = time.monotonic() - started
            self.like = [torch.empty_like(x, device="meta") for x in counters.tensors(result)]
        self.facts = Facts(compiled=compiled.figures())

    def check(self) -> Facts:
        """Holds the workload against its oracle, weighs its memory, and counts what it runs.

        Raises Wrong where the result is off by more than the rule allows, where another kernel ran than the backend
        declares, and where a compiled model ran nothing compiled.
        """
        with self._guard():
            with self.part("references"):
                self.prepared.reference()
            with self.part("checks"):
                report = self.prepared.check()
            self.facts.error, self.facts.bound = worst(report)
            self.facts.loose = dict(report.reasons)
            if not report.ok:
                raise Wrong(report.message, self.facts)
            self.checked = True
            with self.part("counting"):
                allocated = self._count()
            with self.part("memory"):
                peak, stays = memory.peak(self.call, self.device, allocated), self.prepared.kept()
            self.facts.peak_bytes, self.facts.kept_bytes = peak.allocated + stays, stays
            self.facts.reserved_bytes, self.facts.rss_bytes = peak.reserved, peak.rss
        return self.facts

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with available(self.workload):
                yield
        except BaseException:
            if change := switches.restore(self.switches):
                warnings.warn(f"{self.name} {change}", stacklevel=3)
            raise

    def _count(self) -> int | None:
        """Counts what one call runs, and gives the bytes that it allocates, where that is seen as well."""
        w = self.workload
        counted = counters.count(self.call, self.device, model=not w.bare and not w.compiled)
        self.facts.counters, self.facts.kernels = counted.counters, counted.kernels
        self.launches, self.kernel_seconds = counted.launches, counted.shares.seconds
        self.graphs = counted.graphs
        self.facts.kernel_shares, self.facts.attention_share = counted.shares.kernels, counted.shares.attention
        if reason := fallback(counted, w, self.device):
            raise Wrong(reason, self.facts)
        return counted.allocated

    def plan(self, clock: Clock, *, graph: bool = True) -> Plan:
        """Warms the call up and chooses its rounds; without `graph` a GPU's call is launched, not replayed.

        If the call was checked, some of the rounds will be looked at. Those would take another time where a function
        skips what weighs nothing.
        """
        w = self.workload
        with self._guard():
            with_spots = self.checked and not (w.bare and registry.function(w.function).skips)
            self.spot = Spot(self.call, self.prepared.renew, self.prepared.trial() if with_spots else None)
            plan = clock.prepare(self.spot.call, graph=graph, renew=self.spot.renew)
            switches.set_back("the environment", self.switches)  # libraries set it once; a call may not
            self.spot.begin()
            return plan

    def sample(self, clock: Clock, plan: Plan, watch: Watch, precision: float) -> tuple[Samples, tuple[State, ...]]:
        """Times the plan's call until its median is known to `precision`, and looks at the machine meanwhile.

        Raises Wrong where the clock fails since the call moved a switch, such as the stream that it reads.
        """
        with self._guard():
            watch.begin()
            try:
                return sample(clock, plan, precision=precision, watch=watch.sample), watch.end()
            except RuntimeError as error:
                if change := switches.restore(self.switches):
                    raise Wrong(f"{self.name} {change}", self.facts) from error
                raise

    def prove(self, plan: Plan, seconds: float = math.inf, ceilings: Ceilings | None = None) -> None:
        """Holds what the timed call leaves, on inputs that it has not seen, against the rule.

        Raises Wrong where it does not compute its result each time, where it moved a switch of the whole process, and
        where it took `seconds`, which nothing can by the `ceilings`.
        """
        with self.part("proof"), self._guard():
            try:
                assert self.spot is not None, "a proof before a plan"
                prove(self.prepared, plan, self.spot, self.device, self.like)
            except Cheat as caught:
                raise Wrong(f"{self.name} {caught}", self.facts) from caught
            finally:
                change = switches.restore(self.switches)
        if change:
            raise Wrong(f"{self.name} {change}", self.facts)
        if ceilings is not None and (sentence := too_fast(seconds, self.workload, ceilings)):
            raise Wrong(f"{self.name} {sentence}", self.facts)


def worst(report: Report) -> tuple[float, float]:
    """Gives error and bound of the tensor that comes closest to its bound, or passes it by most.

    NaN is worse than any number, and so is an error where none is allowed.
    """
    def ratio(tensor: str) -> float:
        error, bound = report.errors[tensor], report.bounds[tensor]
        if math.isnan(error) or (error and not bound):
            return math.inf
        return error / bound if bound else 0.0

    tensor = max(report.errors, key=ratio)
    return report.errors[tensor], report.bounds[tensor]


def fallback(counted: counters.Counts, w: Workload, device: torch.device) -> str | None:
    """Says, in one line, which other kernel ran in the call than the workload names, or that nothing compiled ran."""
    return wrong_kernel(counted.kernels, w, device.type) or why_not_compiled(counted.counters, w)


@contextmanager
def available(w: Workload) -> Iterator[None]:
    """Turns a lack of memory, or of a kernel that only the call itself shows, into Missing."""
    try:
        yield
    except attention.Unsupported as error:
        raise Missing(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if (short := memory.shortage(error)) is None:
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what was allocated before
        raise Missing(f"{w.variant}: {NO_MEMORY}: {short}") from error
