"""Launch pairs, one after the other, until each benchmark is decided.

    for workload, verdict in comparing(device)(workloads, base, head, 60.0): ...          # by the committed thresholds
    for workload, verdict in compare(workloads, base, head, "cpu", thresholds, 60.0): ...

One launch serves all benchmarks that are still undecided, so what is compared together should have much in common: a
variant. The first pair also checks and counts. A pair measured on an unfit machine is no evidence, and another one
takes its place. When to stop and what is said: perf/verdict/judgement.py.

`.perf/spreads.jsonl` keeps the spreads of launch pairs from run to run. A line is one benchmark of one run, on one
machine and device; the newest runs of a benchmark count.
"""
from __future__ import annotations

import atexit
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from perf.compare.nursery import AVAILABLE, Nursery
from perf.compare.pair import Pair
from perf.compare.process import Died, variables
from perf.compare.record import SAME_KERNELS, Row
from perf.compare.side import ROOT, Side
from perf.measure import machine
from perf.policy.thresholds import FILE, Thresholds, thresholds
from perf.system import files
from perf.verdict import spread
from perf.verdict.causes import unclear
from perf.verdict.exact import changes, same
from perf.verdict.judgement import Judgement, share
from perf.verdict.spread import Spread
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

HANDFUL = 6  # pairs that decide all but the noisiest: the budget is counted after them
SPREADS = Path(".perf/spreads.jsonl")
NEWEST = 4  # runs of a benchmark that count
VARIANT = {"cpu": 90.0, "cuda": 40.0}  # seconds for the pairs of one variant at least,
BENCHMARK = 12.0  # and for each of its benchmarks

# Workloads of one variant, base, head, seconds -> a verdict on each.
Compare = Callable[[Sequence[Workload], Side, Side, float], Iterable[tuple[Workload, Verdict]]]


@dataclass(kw_only=True)
class Case(Judgement):
    """Is a benchmark that is compared live: `base_seconds` and `head_seconds` are those of one call, in every round of
    its pairs, `mhz` the GPU's clock in each pair, by side. `changed` names the functions in whose bodies alone the
    sides differ: if they run the `same` code all the same, nothing is timed."""

    workload: Workload
    base_seconds: list[float] = field(default_factory=list)
    head_seconds: list[float] = field(default_factory=list)
    mhz: dict[str, list[float]] = field(default_factory=dict)
    checked: bool = False
    changed: Sequence[str] = ()
    same: bool = False

    @property
    def done(self) -> bool:
        return self.same or super().done

    def verdict(self) -> Verdict:
        return Row.unchanged(self.workload, SAME_KERNELS).verdict if self.same else super().verdict()

    @property
    def unclear(self) -> bool:
        """Tells whether it got slower, and what was counted doesn't say why."""
        v = self.verdict()
        return v.slower and v.word == "regressed" and v.ratio is not None and unclear(
            changes(self.base, self.head, self.thresholds), self.base, self.head, v.ratio - 1)

    def measure(self, pair: Pair) -> None:
        """Adds one pair. Raises Died."""
        base, head = pair.prepare(self.workload, check=not self.checked,
                                  changed=() if self.checked else self.changed)
        if not self.checked or any(side.missing or side.wrong for side in (base, head)):
            self.base, self.head = base, head
        self.same = not self.checked and bool(self.changed) and same(base, head)
        self.checked = True
        if self.same or not self.able:
            return
        ratio = pair.log_ratio(self.workload, self.thresholds.rounds or None)
        if pair.times.unfit:
            self.unfit.append(pair.times.unfit)
            return
        self.ratios.append(ratio)
        if pair.times.host is not None:
            self.host_ratios.append(pair.times.host)
        for side, mhz in pair.times.mhz.items():
            self.mhz.setdefault(side, []).append(mhz)
        self.base, self.head = (replace(side, mhz=statistics.median(self.mhz[name]) if name in self.mhz else None)
                                for name, side in (("base", self.base), ("head", self.head)))
        self.base_seconds += pair.times.base
        self.head_seconds += pair.times.head

    def died(self, error: Died) -> None:
        """Notes what a worker died of: what the head alone can't do any more is wrong, otherwise it is missing."""
        if error.side != "head":
            self.base = replace(self.base, missing=error.reason)
        if error.side == "head":
            self.head = replace(self.head, wrong=error.reason)
        elif error.side == "both":
            self.head = replace(self.head, missing=error.reason)

    def row(self, verdict: Verdict) -> Row:
        """Makes a row of the verdict, with the medians of all rounds and the head's rounds themselves."""
        neither = verdict.word == "missing" and self.base.missing
        base, head = (statistics.median(seconds) if seconds else None
                      for seconds in (self.base_seconds, self.head_seconds))
        word = "unchanged" if self.same else "skipped" if neither else verdict.word
        return Row(self.workload, verdict, word, base, head, tuple(self.head_seconds))


def compare(workloads: Sequence[Workload], base: Side, head: Side, device: str | Any,
            thresholds: Callable[[Workload], Thresholds], budget_seconds: float,
            progress: Callable[[str], None] = lambda line: None, *, cases: dict[str, Case] | None = None,
            earlier: Mapping[str, Spread] | None = None,
            changed: Callable[[Workload], Iterable[str] | None] | None = None) -> Iterator[tuple[Workload, Verdict]]:
    """Yields each workload with its verdict, as soon as it is known; what is undecided when the budget ends comes last.

    The budget is counted from the first `HANDFUL` of pairs on, without which few benchmarks can be decided; no further
    pair is begun if it would pass the budget by what the last one took. `progress` is told a line after each pair,
    `cases` filled with what was measured, by workload id. `earlier` are spreads of earlier runs on this machine, by
    workload id; None: the thresholds say all that is known of spreads, and nothing is borrowed. `changed` names the
    functions in whose bodies alone the sides differ, if it is so for a workload: then what runs the same code all the
    same is not timed. Where a side is missing as a whole, so is each workload.
    """
    known = {} if cases is None else cases
    known |= {w.id: Case(thresholds(w), workload=w, changed=sorted((changed and changed(w)) or ()))
              for w in workloads}
    if reason := base.missing or head.missing:
        which = base if base.missing else head
        yield from ((w, Verdict("missing", why=f"{which.name}: {reason}")) for w in workloads)
        return
    undecided = [known[w.id] for w in workloads]
    started = counting = time.monotonic()
    launched, took = 0, 0.0
    while undecided and (_due(undecided, launched) or time.monotonic() - counting + took <= budget_seconds):
        begun = time.monotonic()
        forks = nursery(str(device)) if base.here and head.here else None
        start = functools.partial(Pair, base, head, str(device), head_first=launched % 2 == 1, nursery=forks)
        _launch(undecided, start, forks)
        launched, took = launched + 1, time.monotonic() - begun
        if launched <= HANDFUL:
            counting = time.monotonic()
        if earlier is not None:
            share(known, earlier, [one.workload.id for one in undecided])
        decided = [one for one in undecided if one.done]
        undecided = [one for one in undecided if not one.done]
        for one in decided:
            yield one.workload, one.verdict()
        spent = time.monotonic() - started
        progress(f"pair {launched}, {spent:.0f} s: {len(undecided)} of {len(workloads)} undecided")
    for one in undecided:
        yield one.workload, one.verdict()


def _due(undecided: Sequence[Case], launched: int) -> bool:
    """Tells whether a pair is taken whatever the budget: the first, or a few where no counter has decided."""
    return not launched or (launched < HANDFUL and not all(one.counters_decide for one in undecided))


def _launch(undecided: Sequence[Case], start: Callable[[], Pair], forks: Nursery | None) -> None:
    """Takes one pair of all; a worker that dies takes along the pair, and the benchmark that it died of."""
    left = list(undecided)
    while left:
        with start() as pair:
            try:
                while left:
                    left[0].measure(pair)
                    left.pop(0)
            except Died as error:
                left.pop(0).died(error)
        if forks:
            forks.learn(pair.imports)


def settings(w: Workload, kind: str, among: int = 1) -> Thresholds:
    """Reads what counts as a change of a benchmark on this kind of machine, one of `among` compared together."""
    return thresholds(w.id, files.from_toml(FILE.read_text(encoding="utf-8")), kind).among(among)


def budget(device_type: str, count: int) -> float:
    """Returns the seconds for the pairs of one variant with `count` benchmarks, after the first handful of pairs."""
    return max(VARIANT[device_type], BENCHMARK * count)


def kind(device: torch.device | str) -> str:
    """Names the kind of machine that thresholds go by: a GPU's name, or "cpu"."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Spreads:
    """Reads what `path` holds of this machine and `device`; a line that can't be read is not known."""

    def __init__(self, path: Path, device: torch.device | str) -> None:
        self.path, self.place = path, f"{machine.identity()} {device}"
        runs: dict[str, list[Spread]] = {}
        for one in files.records(path):
            try:
                if one["place"] == self.place:
                    runs.setdefault(one["benchmark"], []).append(Spread(**one["spread"]))
            except (TypeError, KeyError):
                continue
        self.earlier = {name: sum(spreads[-NEWEST:-1], spreads[-1]) for name, spreads in runs.items()}

    def keep(self, cases: Iterable[Case]) -> None:
        """Adds the spread of each case's pairs to the file."""
        spreads = {case.workload.id: one for case in cases if (one := spread.of(case.ratios))}
        if spreads:
            files.append(self.path, *({"place": self.place, "benchmark": name, "spread": asdict(one)}
                                      for name, one in spreads.items()))


@functools.cache
def nursery(device: str) -> Nursery | None:
    """Returns what forks this process's workers for a device. It is None on a CPU, where each pair has to draw its own
    layout of memory, and where no fork could use the GPU: a line on stderr says so."""
    if device == "cpu" or not AVAILABLE:
        return None
    try:
        made = Nursery(ROOT, variables("base", Side(ROOT, "the harness"), device))
    except ValueError as error:
        print(f"perf: {error}; so each worker imports torch anew", file=sys.stderr, flush=True)
        return None
    atexit.register(made.close)
    return made


def comparing(device: torch.device, among: int = 1) -> Compare:
    """Returns a comparison by live pairs on the device, whose progress goes to stderr; `among`: as in `settings`."""
    place, spreads = kind(device), Spreads(SPREADS, device)

    def compared(workloads: Sequence[Workload], base: Side, head: Side,
                 seconds: float) -> Iterator[tuple[Workload, Verdict]]:
        cases: dict[str, Case] = {}
        yield from compare(workloads, base, head, str(device), lambda w: settings(w, place, among), seconds,
                           lambda line: print(f"    {line}", file=sys.stderr, flush=True), cases=cases,
                           earlier=spreads.earlier)
        spreads.keep(cases.values())

    return compared
