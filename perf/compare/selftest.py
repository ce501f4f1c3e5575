"""The self-test: the working tree against itself, as it is and with faults put in on purpose.

Every alarm of the first kind (A/A) is a false one; every fault of the second that matters has to be caught.
"""
from __future__ import annotations

import math
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from perf.compare import pairs
from perf.compare.checkout import working_tree
from perf.compare.inject import TIMED, parse
from perf.compare.side import INJECT
from perf.system import exit_codes
from perf.system.tools import group_by
from perf.verdict.verdict import Thresholds, Verdict
from perf.verdict.words import many
from perf.workloads.grids import grid
from perf.workloads.workload import Workload

FAULTS = ("clone", "sync", "recompile", "unfused", *(f"slow:{size}%" for size in (10, 5, 3, 2, 1)))
VARIANTS = ("softmax:sdpa", "softmax:eager", "sliding-window:sdpa")  # that faults are put into, one benchmark each
QUICK_FAULTS = ("clone", "sync", "recompile", "slow:10%", "slow:5%")
WIDTH = 120

# Compares the working tree with itself: workloads of one variant, seconds for it -> verdicts.
Compare = Callable[[Sequence[Workload], float], Iterable[tuple[Workload, Verdict]]]


@dataclass(frozen=True)
class Trial:
    """Is one benchmark, compared with itself (`fault` is None) or with a fault in it; `seconds` last from the start to
    its verdict, processes included."""

    fault: str | None
    workload: Workload
    verdict: Verdict
    seconds: float
    thresholds: Thresholds

    @property
    def enough_pairs(self) -> bool:
        """Tells whether there were pairs enough for an alarm."""
        return self.verdict.pairs >= self.thresholds.least_pairs

    @property
    def alarm(self) -> bool:
        return self.verdict.word in ("regressed", "improved", "wrong")

    @property
    def exit_code(self) -> int:
        """Returns what `pytest perf/ --perf-against` would with this benchmark alone."""
        if self.verdict.word in ("regressed", "wrong") or (self.verdict.word == "inconclusive" and self.verdict.slower):
            return exit_codes.FAILED
        left_open = dict.fromkeys(("inconclusive", "missing"), exit_codes.UNDECIDED)
        return {**left_open, "invalid": exit_codes.UNFIT}.get(self.verdict.word, exit_codes.OK)

    @property
    def must_be_caught(self) -> bool:
        """Tells whether a miss is a failure: a slowdown below what matters may be called ok."""
        if self.fault is None:
            return False
        return shows_in_counters(self.fault) or parse(self.fault)[1] >= self.thresholds.effect

    def to_json(self) -> dict[str, Any]:
        return {"fault": self.fault, "benchmark": self.workload.id, "seconds": self.seconds,
                "exit_code": self.exit_code, "thresholds": asdict(self.thresholds), "verdict": asdict(self.verdict)}


def benchmarks(device: torch.device, *, quick: bool, name: str = "quick") -> list[Workload]:
    """Lists the grid of that name as far as it can run here; if it has to be quick, only the first of `VARIANTS`."""
    from perf.bench.prepare import Preparer

    chosen = [w for w in grid(name, device.type) if not quick or (w.bare and w.variant == VARIANTS[0])]
    preparer = Preparer(device)
    return [w for w in chosen if preparer.why_not(w) is None]


def itself(device: torch.device, among: int) -> Compare:
    """Compares the working tree with itself, by the settings of one of `among` benchmarks."""
    compare = pairs.comparing(device, among)

    def twice(workloads: Sequence[Workload], seconds: float) -> Iterator[tuple[Workload, Verdict]]:
        with working_tree() as tree:
            yield from compare(workloads, tree, tree, seconds)

    return twice


def trials_of(workloads: Sequence[Workload], faults: Sequence[str], compare: Compare, seconds: float,
              kind: str = "cpu") -> Iterator[Trial]:
    """Compares each variant with itself (A/A), then puts each fault into the first benchmark of some, on a machine of
    that `kind`. A fault that counters tell gets one pair, whatever else is timed an equal share of the time that is
    left."""
    variants = group_by(workloads, lambda w: w.variant)
    asked: list[tuple[str | None, list[Workload]]] = [(None, together) for together in variants.values()]
    asked += [(fault, variants[name][:1]) for name in VARIANTS if name in variants for fault in faults]
    end = time.monotonic() + seconds
    for i, (fault, together) in enumerate(asked):
        start = time.monotonic()
        timed = sum(not shows_in_counters(fault) for fault, _ in asked[i:])
        share = 0.0 if shows_in_counters(fault) else max(0.0, end - start) / timed
        with injected(fault):
            for w, verdict in compare(together, share):
                yield Trial(fault, w, verdict, time.monotonic() - start, pairs.settings(w, kind))


def shows_in_counters(fault: str | None) -> bool:
    """Tells whether a fault shows in counters, which carry no noise."""
    return fault is not None and parse(fault)[0] not in TIMED


@contextmanager
def injected(fault: str | None) -> Iterator[None]:
    """Puts the fault into each call of the head's workers that are started meanwhile."""
    before = os.environ.pop(INJECT, None)
    if fault is not None:
        os.environ[INJECT] = fault
    try:
        yield
    finally:
        os.environ.pop(INJECT, None)
        if before is not None:
            os.environ[INJECT] = before


def shown(trial: Trial) -> str:
    """Writes a line, and the verdict's sentence below it."""
    what, indent = trial.fault or "A/A", 11 * " "
    return (f"{what:<10} {trial.verdict.word:<13}{trial.seconds:6.1f} s  exit code {trial.exit_code:<3}"
            f"{trial.workload.id}\n"
            + textwrap.fill(trial.verdict.why, WIDTH, initial_indent=indent, subsequent_indent=indent))


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Sums up what is published. Changes are shares: 0.04 is 4 %. `time` says of each change of time alone, which no
    counter shows, how many were caught and how many were put in."""
    same = [trial for trial in trials if trial.fault is None and trial.enough_pairs]
    due = [trial for trial in trials if trial.must_be_caught]
    certified = sorted(v for trial in same if (v := trial.verdict.within_reach) is not None)
    alarms = sum(trial.alarm for trial in same)
    of_time = group_by((trial for trial in trials if trial.fault and not shows_in_counters(trial.fault)),
                       lambda trial: parse(trial.fault or "")[1])
    return {
        "compared": len(same), "false_alarms": alarms, "false_alarms_at_most": at_most(alarms, len(same)),
        "caught": sum(trial.verdict.word == "regressed" for trial in due), "due": len(due),
        "time": {f"{size:g}": [sum(trial.verdict.word == "regressed" for trial in of_size), len(of_size)]
                 for size, of_size in sorted(of_time.items(), reverse=True)},
        "undecided": sum(trial.verdict.word in ("inconclusive", "invalid") for trial in due),
        "certified": {"half": _part(certified, 0.5), "nine in ten": _part(certified, 0.9), "all": _part(certified, 1)},
        "certified_at_effect": sum((t.verdict.within_reach or math.inf) <= t.thresholds.effect for t in same)}


def at_most(events: int, trials: int) -> float:
    """Finds the largest rate that so few events don't rule out, with 95 % confidence: of none seen 3/N, as a Poisson
    count has it; at most 1."""
    if not trials:
        return 1.0
    low, high = 0.0, events + 10.0 * math.sqrt(events + 1)
    for _ in range(60):
        mean = (low + high) / 2
        chance = sum(math.exp(-mean) * mean ** k / math.factorial(k) for k in range(events + 1))
        low, high = (mean, high) if chance > 0.05 else (low, mean)
    return min(1.0, high / trials)


def _part(ordered: Sequence[float], share: float) -> float | None:
    """Finds the value that this share of the values doesn't exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def sentences(figures: dict[str, Any]) -> list[str]:
    """Writes the summary in sentences."""
    certified = ", ".join(f"{part} {change:.1%}" for part, change in figures["certified"].items() if change is not None)
    return [
        f"A/A: {many(figures['compared'], 'benchmark')}, {many(figures['false_alarms'], 'false alarm')}: at most "
        f"{figures['false_alarms_at_most']:.1%} of benchmarks (95 % confidence)",
        f"smallest change that the most pairs would certify: of the benchmarks {certified or 'none'}",
        f"{figures['certified_at_effect']} of {figures['compared']} benchmarks certify what matters",
        f"faults that matter: {figures['caught']} of {figures['due']} caught, {figures['undecided']} undecided",
        *_time_alone(figures["time"])]


def _time_alone(caught: Mapping[str, Sequence[int]]) -> list[str]:
    """Says at which size a change of time alone begins to be missed."""
    if not caught:
        return []
    shares = ", ".join(f"{float(size):.0%} {hits} of {tried}" for size, (hits, tried) in caught.items())
    missed = [float(size) for size, (hits, tried) in caught.items() if hits < tried]
    return [f"time alone: {shares}: {f'begins to miss at {max(missed):.0%}' if missed else 'none was missed'}"]


def exit_code(trials: Sequence[Trial]) -> int:
    """Returns the exit code of all trials. Undecided is no failure: it claims nothing."""
    if trials and all(trial.verdict.word == "invalid" for trial in trials):
        return exit_codes.UNFIT
    missed = [trial for trial in trials if trial.must_be_caught
              and trial.verdict.word not in ("regressed", "inconclusive", "invalid")]
    alarms = any(trial.alarm for trial in trials if trial.fault is None)
    return exit_codes.FAILED if missed or alarms else exit_codes.OK
