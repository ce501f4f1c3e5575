"""One pytest run's measuring: what happens to a workload between its fixture and its evidence."""
from __future__ import annotations

import functools
import time
from typing import Any, NoReturn

import pytest
import torch

import attention
from attention.registry import variant
from perf.bench.precompile import precompile
from perf.bench.prepare import Prepared, Preparer
from perf.bench.quality import Judge
from perf.bench.treatments import not_compiled
from perf.measure import counters, machine, memory, roofline
from perf.measure.clocks import Plan, clock
from perf.measure.compiling import Ledger, compiling
from perf.measure.evidence import Evidence, Writer
from perf.measure.fitness import Patience, State, Watch, summary, unfit
from perf.measure.kernels import wrong_kernel
from perf.measure.sampling import Samples, sample
from perf.run.options import Settings
from perf.run.replay import Script
from perf.run.resume import measured_before
from perf.run.spending import Spending
from perf.workloads.workload import Workload


class Session:
    """The clock, the prepared shape and the evidence of a run."""

    def __init__(self, settings: Settings, script: Script) -> None:
        self.settings, self.script = settings, script
        self.spending = Spending()
        self.clock = clock(settings.device)
        self.preparer = Preparer(settings.device)
        self.writer = Writer(settings.evidence)
        self.watch, self.patience = Watch(settings.device), Patience()
        self.ledger = Ledger(settings.evidence.parent)
        self.judge = Judge(settings.device, settings.evidence.parent / "trained")
        self.rows: list[Evidence] = []
        self.notes: list[str] = []
        self.before = measured_before(settings) if settings.resume else {}
        self.compiled_ahead = False

    @functools.cached_property
    def ceilings(self) -> roofline.Ceilings:
        with self.spending.on("ceilings"):
            dtypes = sorted({w.dtype for w in self.settings.workloads})
            return roofline.ceilings(self.settings.device, dtypes, folder=self.settings.evidence.parent)

    def _compile_ahead(self) -> None:
        """Before the first workload: nothing is timed while workers compile."""
        self.compiled_ahead = True
        compiled = [w for w in self.settings.workloads if w.id not in self.before
                    and (variant(w.variant).backend.compiled if w.bare else w.compiled)]
        with self.spending.on("compiling ahead"):
            figures, failed = precompile(compiled, self.settings.device)
        for workload, found in figures.items():
            self.ledger.add(workload, found)
        self.notes += failed

    def measure(self, w: Workload, benchmark: Any) -> None:
        """Skips what can't run, fails what is wrong, times the rest, and plays its samples to pytest-benchmark."""
        if known := self.before.get(w.id):
            self.rows.append(known)
            self._play(known.samples, known, benchmark, lambda: None)
            return
        if benchmark.enabled and not self.compiled_ahead:
            self._compile_ahead()
        if reason := self.preparer.why_not(w):
            self._skip(w, reason)
        try:
            with compiling() as compiled:
                with self.spending.on("preparing"):
                    prepared = self._prepared(w)
                with self.spending.on("first calls"):  # compilers and libraries make their plans
                    prepared.call()
                with self.spending.on("references"):
                    prepared.reference()
                with self.spending.on("checks"):
                    found = self._check(w, prepared)
            found["compiled"] = self.ledger.add(w.id, compiled.figures())
            self._measure(w, prepared, benchmark, found)
        except attention.Unsupported as error:
            self._skip(w, str(error))
        except torch.OutOfMemoryError as error:
            self._skip(w, f"{w.variant}: does not fit: {memory.shortage(error)}")
        except Exception as error:
            self._record(w, "failed", reason=f"{type(error).__name__}: {error}".splitlines()[0])
            raise

    def _prepared(self, w: Workload) -> Prepared:
        try:
            return self.preparer.prepare(w)
        except (ValueError, ImportError) as error:
            self._skip(w, str(error).splitlines()[0])

    def _check(self, w: Workload, prepared: Prepared) -> dict[str, Any]:
        """Error and bound of the tensor that comes closest to its bound; fails if one passes it."""
        report = prepared.check()
        worst = max(report.errors, key=lambda x: _badness(report.errors[x], report.bounds[x]))
        found = {"error": report.errors[worst], "bound": report.bounds[worst]}
        if not report.ok:
            self._fail(w, report.message, **found)
        return found

    def _measure(self, w: Workload, prepared: Prepared, benchmark: Any, found: dict[str, Any]) -> None:
        device = self.settings.device
        with self.spending.on("memory"):
            peak, kept = memory.peak(prepared.call, device), prepared.kept()
        with self.spending.on("counting"):
            counted = counters.count(prepared.call, device, model=not w.bare and not w.compiled)
        found |= {"counters": counted.counters, "kernels": counted.kernels,
                  "kernel_shares": counted.shares.kernels, "attention_share": counted.shares.attention,
                  "peak_bytes": peak.allocated + kept, "kept_bytes": kept,
                  "reserved_bytes": peak.reserved, "rss_bytes": peak.rss}
        if reason := wrong_kernel(counted.kernels, w, device.type) or not_compiled(counted.counters, w):
            self._fail(w, reason, **found)
        if self.settings.quality and not w.bare:
            with self.spending.on("quality"):
                judged = self.judge.of(w)
            found["quality"] = judged.found or {"reason": judged.reason}
            if judged.lost:  # whatever its speed
                self._fail(w, f"{w.model} in {w.quantization} {judged.lost}", **found)
        if not benchmark.enabled:
            benchmark.pedantic(prepared.call)  # --benchmark-disable: checked and called, not timed
            return
        with self.spending.on("timing"):
            plan = self.clock.prepare(prepared.call)
            samples, states = self._timed(plan)
        if limit := roofline.floor(w, self.ceilings):
            found |= {"floor": limit.seconds, "limit": limit.limit}
        found |= {"clock": plan.clock, "no_graph": plan.no_graph, "host": plan.host, "state": summary(states),
                  "iterations": plan.iterations}
        if host := states[-1].host:
            found["foreign_cores"] = host.foreign_cores
        if reason := unfit(states):
            found["reason"] = reason
            if self.settings.unfit == "invalid":
                self._record(w, "invalid", **found)
                pytest.fail(f"invalid: {reason}", pytrace=False)
        self._keep(w, samples, plan, benchmark, found)

    def _timed(self, plan: Plan) -> tuple[Samples, tuple[State, ...]]:
        """Times, and times again where the machine turned out unfit."""
        attempt = 0
        while True:
            self.watch.begin()
            samples = sample(self.clock, plan, precision=self.settings.precision, watch=self.watch.sample)
            states = self.watch.end()
            if self.settings.unfit == "keep" or not self.patience.again(unfit(states), attempt):
                return samples, states
            time.sleep(self.patience.pause)
            attempt += 1

    def _keep(self, w: Workload, samples: Samples, plan: Plan, benchmark: Any, found: dict[str, Any]) -> None:
        quarter = len(samples.seconds) // 4
        ordered = sorted(samples.seconds)
        iqr = ordered[-1 - quarter] - ordered[quarter]
        row = self._record(w, "ok", samples=samples.seconds, median=samples.median, interval=samples.interval,
                           iqr=iqr, rounds=len(ordered), ended=samples.ended, **found)
        self._play(samples.seconds, row, benchmark, plan.call)

    def _play(self, samples: tuple[float, ...], row: Evidence, benchmark: Any, call: Any) -> None:
        names = ("error", "bound", "peak_bytes", "flops", "bytes", "clock", "interval", "ended", "host", "floor",
                 "limit", "compiled", "counters", "quality")
        benchmark.extra_info.update({name: getattr(row, name) for name in names})
        self.script.play(samples, benchmark, call)

    def _skip(self, w: Workload, reason: str) -> NoReturn:
        self._record(w, "skipped", reason=reason)
        pytest.skip(reason)

    def _fail(self, w: Workload, reason: str, **found: Any) -> NoReturn:
        self._record(w, "wrong", reason=reason, **found)
        pytest.fail(reason, pytrace=False)

    def _record(self, w: Workload, outcome: str, **found: Any) -> Evidence:
        evidence = Evidence(w, outcome, flops=w.flops, bytes=w.bytes, machine=machine.identity(),
                            revision=machine.revision(), **found)
        self.rows.append(evidence)
        self.writer.append(evidence)
        return evidence


def _badness(error: float, bound: float) -> float:
    """Error over bound, made to be ordered: NaN, and any error where none is allowed, are the worst."""
    if error != error or (error and not bound):
        return float("inf")
    return error / bound if bound else 0.0
