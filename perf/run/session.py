"""A session measures the workloads of one pytest run, from fixture to evidence."""
from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import pytest

from attention.registry import variant
from perf.bench.precompile import precompile
from perf.bench.prepare import Preparer
from perf.bench.quality import Judge
from perf.bench.subject import Missing, Subject, Wrong
from perf.measure import evidence, machine, roofline
from perf.measure.clocks import Plan, clock
from perf.measure.compiling import Ledger
from perf.measure.evidence import Evidence, Shard, Writer, load
from perf.measure.fitness import Patience, State, Watch, summary, unfit
from perf.measure.host import vnni
from perf.measure.sampling import Samples
from perf.run.hanging import Hung, limit, patience
from perf.run.options import Settings
from perf.run.replay import Script
from perf.run.spending import Spending
from perf.system.tools import failure
from perf.workloads.workload import Workload

SHOWN = ("error", "bound", "peak_bytes", "flops", "bytes", "clock", "interval", "ended", "host", "floor", "limit",
         "compiled", "counters", "quality")  # the fields of evidence that pytest-benchmark's JSON has too

LONGEST = 5.0  # seconds of a call; a row takes about ten calls


class Session:
    """Holds the clock, the prepared shape and the evidence of a run."""

    def __init__(self, settings: Settings, script: Script, shard: Shard | None = None) -> None:
        self.settings, self.script = settings, script
        self.spending = Spending()
        self.clock = clock(settings.device)
        self.preparer = Preparer(settings.device)
        self.writer, self.flight = Writer(settings.evidence, shard), evidence.Flight(settings.evidence)
        self.watch, self.patience = Watch(settings.device), Patience()
        self.ledger = Ledger(settings.evidence.parent)
        self.judge = Judge(settings.device, settings.evidence.parent / "trained")
        self.rows: list[Evidence] = []
        self.notes: list[str] = []
        with self._noting():
            self.before = earlier_rows(settings) if settings.resume else {}
        self.compiled_ahead = False

    @functools.cached_property
    def ceilings(self) -> roofline.Ceilings:
        """Gives the machine's rates in the dtypes of this run."""
        with self.spending.on("ceilings"), self._noting():
            dtypes = sorted({*roofline.FASTEST, *(w.dtype for w in self.settings.workloads)})
            return roofline.ceilings(self.settings.device, dtypes, folder=self.settings.evidence.parent)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Turns what is warned of meanwhile into notes of the run."""
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            yield
        self.notes += [text for doubt in doubts if (text := str(doubt.message)) not in self.notes]

    def _prepare(self, w: Workload) -> None:
        """Does what is needed before the first row, and is no part of its time: compiles, and measures the ceilings."""
        if not self.compiled_ahead:
            self._compile_ahead()
        if self.preparer.why_not(w) is None:
            _ = self.ceilings

    def _compile_ahead(self) -> None:
        """Compiles before the first workload: nothing is timed while workers compile."""
        self.compiled_ahead = True
        compiled = [w for w in self.settings.workloads if w.id not in self.before
                    and (variant(w.variant).backend.compiled if w.bare else w.compiled)]
        with self.spending.on("compiling ahead"):
            figures, failed = precompile(compiled, self.settings.device)
        for workload, seconds in figures.items():
            self.ledger.add(workload, seconds)
        self.notes += failed

    def measure(self, w: Workload, benchmark: Any) -> None:
        """Skips what can't run, fails what is wrong, times the rest, and plays its samples to pytest-benchmark."""
        if self.settings.resume and w.id == self.flight.fatal and w.id not in self.before:
            self.before[w.id] = self._record(w, "failed", reason=evidence.ENDED)
            pytest.fail(evidence.ENDED, pytrace=False)
        if row := self.before.get(w.id):
            self.rows.append(row)
            if row.outcome == "failed":
                pytest.fail(row.reason or "", pytrace=False)
            self._play(row, benchmark, lambda: None)
            return
        with ExitStack() as mark:
            if benchmark.enabled:
                try:
                    mark.enter_context(self.flight.row(w.id))
                except OSError as error:
                    self._end(error)
            self._try(w, benchmark)

    def _try(self, w: Workload, benchmark: Any) -> None:
        try:
            if benchmark.enabled:
                self._prepare(w)
            began = time.monotonic()
            with limit(self.settings.case_timeout or patience(self.ledger.rows.get(w.id))):
                self._measure(w, benchmark)
            if benchmark.enabled:
                with self._noting():
                    self.ledger.add_row(w.id, time.monotonic() - began)
        except Hung as hung:
            self.preparer = Preparer(self.settings.device)  # it may have been ended half way
            print(hung.stacks, file=sys.stderr)  # pytest shows it with the failure
            self._record(w, "failed", reason=str(hung))
            raise pytest.fail.Exception(str(hung), pytrace=False) from None
        except Missing as reason:
            self._record(w, "skipped", reason=str(reason))
            pytest.skip(str(reason))
        except Wrong as wrong:
            self._fail(w, str(wrong), asdict(wrong.facts))
        except pytest.exit.Exception:
            raise
        except Exception as error:
            self._record(w, "failed", reason=failure(error))
            raise

    def _measure(self, w: Workload, benchmark: Any) -> None:
        subject = Subject(self.preparer, w, part=self.spending.on)
        with self._noting():
            subject.facts.compiled = self.ledger.add(w.id, subject.facts.compiled)
        self._bear(subject)
        facts = asdict(subject.check())
        if self.settings.quality and not w.bare:
            with self.spending.on("quality"):
                judged = self.judge.of(w)
            facts["quality"] = judged.figures or {"reason": judged.reason}
            if judged.lost:  # whatever its speed
                self._fail(w, f"{w.model} in {w.quantization} {judged.lost}", facts)
        if not benchmark.enabled:
            benchmark.pedantic(subject.call)  # --benchmark-disable: checked and called, not timed
            return
        with self.spending.on("timing"):
            plan = subject.plan(self.clock)
            samples, states = self._timed(subject, plan)
        subject.prove(plan, samples.median, self.ceilings)
        if limit := roofline.floor(w, self.ceilings):
            facts |= {"floor": limit.seconds, "limit": limit.limit}
        facts |= {"clock": plan.clock, "no_graph": plan.no_graph, "host": plan.host, "state": summary(states),
                  "iterations": plan.iterations}
        if host := states[-1].host:
            facts["foreign_cores"] = host.foreign_cores
        if reason := unfit(states):
            facts["reason"] = reason
            if self.settings.unfit == "invalid":
                self._record(w, "invalid", **facts)
                pytest.fail(f"invalid: {reason}", pytrace=False)
        row = self._record(w, "ok", samples=samples.seconds, median=samples.median, interval=samples.interval,
                           iqr=samples.iqr, rounds=len(samples.seconds), ended=samples.ended, **facts)
        self._play(row, benchmark, plan.call)

    def _bear(self, subject: Subject) -> None:
        """Leaves a row whose every call is long to the full grid, and to options that ask for it: raises Missing."""
        seconds = 0.0 if subject.facts.compiled else subject.first_seconds
        if seconds > LONGEST and self.settings.grid != "full" and not self.settings.axes:
            raise Missing(f"one call takes {seconds:.0f} s{self._hint(subject.workload)}; --perf-grid full measures it")

    def _hint(self, w: Workload) -> str:
        int8 = "int8" in w.quantization and self.settings.device.type == "cpu"
        return " (this CPU has no VNNI instructions, which int8 needs)" if int8 and not vnni() else ""

    def _timed(self, subject: Subject, plan: Plan) -> tuple[Samples, tuple[State, ...]]:
        """Times the subject, and again where the machine turned out unfit."""
        attempt = 0
        while True:
            samples, states = subject.sample(self.clock, plan, self.watch, self.settings.precision)
            if self.settings.unfit == "keep" or not self.patience.again(unfit(states), attempt):
                return samples, states
            time.sleep(self.patience.pause)
            attempt += 1

    def _play(self, row: Evidence, benchmark: Any, call: Any) -> None:
        benchmark.extra_info.update({name: getattr(row, name) for name in SHOWN})
        self.script.play(row.samples, benchmark, call)

    def _fail(self, w: Workload, reason: str, facts: dict[str, Any]) -> NoReturn:
        self._record(w, "wrong", reason=reason, **facts)
        raise pytest.fail.Exception(reason, pytrace=False) from None  # the reason says it all

    def _end(self, error: OSError) -> NoReturn:
        """Ends the run, for no row after this one could be kept either."""
        pytest.exit(f"perf: {self.writer.path}: {error.strerror}: the evidence can't be written, so the run ends here; "
                    "mend that, and go on with --perf-resume", returncode=pytest.ExitCode.USAGE_ERROR)

    def _record(self, w: Workload, outcome: str, **facts: Any) -> Evidence:
        evidence = Evidence(w, outcome, flops=w.flops, bytes=w.bytes, machine=machine.identity(),
                            revision=machine.revision(), **facts)
        try:
            with self._noting():
                self.writer.append(evidence)
        except OSError as error:
            self._end(error)
        self.rows.append(evidence)
        return evidence


def earlier_rows(settings: Settings) -> dict[str, Evidence]:
    """Reads the good rows of the evidence file, by workload id, and those that ended the process: of this machine and
    this very commit, which `--perf-resume` does not measure again.

    Raises ValueError, in one line, where there is no telling: uncommitted changes, no git, a broken file.
    """
    revision = machine.revision()
    if revision is None or revision.endswith("+dirty"):
        raise ValueError("--perf-resume: the working tree is no commit of its own, so no telling what the rows in "
                         f"{settings.evidence} measured; commit, or measure all of it")
    if not settings.evidence.exists():
        return {}
    return {row.workload.id: row for row in load(settings.evidence)
            if (row.outcome == "ok" or evidence.ends_process(row)) and row.machine == machine.identity()
            and row.revision == revision}
