"""Launch pairs, one after the other, until each benchmark is decided.

    for workload, verdict in compare(workloads, base_folder, head_folder, "cpu", thresholds, 60.0): ...

One launch serves all benchmarks that are still undecided, so what is compared together should have much in common: a
variant. The first pair also checks and counts. A pair measured on an unfit machine is no evidence, and another one
takes its place.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perf.compare.launcher import Launcher
from perf.compare.pair import Pair, Times
from perf.compare.process import Died
from perf.verdict.verdict import Side, Thresholds, Verdict, counted, decide, settled
from perf.workloads.workload import Workload

__all__ = ["Died", "Found", "Pair", "Times", "compare"]

UNFIT = 3  # pairs on an unfit machine before a benchmark with no other is invalid
TOLD = 6  # pairs that say about how much slower it is, where counters have said that it is regressed
UNKNOWN = Side({}, None, None)


@dataclass
class Found:
    """What is known of one benchmark: `ratios` are the log ratios of its pairs, `base_seconds` and `head_seconds` those
    of one call, in every round of these pairs."""

    workload: Workload
    thresholds: Thresholds
    base: Side = UNKNOWN
    head: Side = UNKNOWN
    ratios: list[float] = field(default_factory=list)
    base_seconds: list[float] = field(default_factory=list)
    head_seconds: list[float] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    checked: bool = False

    def measure(self, pair: Pair) -> None:
        """Adds one pair. Raises Died."""
        base, head = pair.prepare(self.workload, check=not self.checked)
        if not self.checked or not (_able(base) and _able(head)):
            self.base, self.head = base, head
        self.checked = True
        if not (_able(base) and _able(head)):
            return
        ratio = pair.log_ratio(self.workload, self.thresholds.rounds or None)
        if pair.times.unfit:
            self.unfit.append(pair.times.unfit)
            return
        self.ratios.append(ratio)
        self.base_seconds += pair.times.base
        self.head_seconds += pair.times.head

    def died(self, error: Died) -> None:
        """What the head alone can't do any more is wrong, otherwise it is missing."""
        if error.side != "head":
            self.base = replace(self.base, missing=error.reason)
        if error.side == "head":
            self.head = replace(self.head, wrong=error.reason)
        elif error.side == "both":
            self.head = replace(self.head, missing=error.reason)

    @property
    def done(self) -> bool:
        if not (_able(self.base) and _able(self.head)):
            return True
        if len(self.ratios) >= TOLD and counted(self.base, self.head, self.thresholds):
            return True
        return settled(self.ratios, self.thresholds) or (not self.ratios and len(self.unfit) >= UNFIT)

    def verdict(self) -> Verdict:
        invalid = self.unfit[-1] if self.unfit and not self.ratios else None
        return decide(self.ratios, self.base, replace(self.head, invalid=invalid), self.thresholds)


def compare(workloads: Sequence[Workload], base_folder: Path, head_folder: Path, device: str | Any,
            thresholds: Thresholds | Mapping[str, Thresholds] | Callable[[Workload], Thresholds], budget_seconds: float,
            progress: Callable[[str], None] = lambda line: None, *,
            found: dict[str, Found] | None = None) -> Iterator[tuple[Workload, Verdict]]:
    """Each workload with its verdict, as soon as it is known; what is undecided when the budget ends comes last.

    `thresholds` are one for all, by workload id, or a function of the workload. A pair is not begun if it would pass
    the budget by what the last one took, but one is always taken. `progress` is told a line after each pair, `found`
    filled with what was measured, by workload id.
    """
    known = {} if found is None else found
    known |= {w.id: Found(w, _of(thresholds, w)) for w in workloads}
    undecided = [known[w.id] for w in workloads]
    started = time.monotonic()
    launched, took = 0, 0.0
    with Launcher(base_folder, head_folder, str(device)) as launcher:
        while undecided and (not launched or time.monotonic() - started + took <= budget_seconds):
            begun = time.monotonic()
            _launch(undecided, launcher, head_first=launched % 2 == 1)
            launched, took = launched + 1, time.monotonic() - begun
            decided = [one for one in undecided if one.done]
            undecided = [one for one in undecided if not one.done]
            for one in decided:
                yield one.workload, one.verdict()
            spent = time.monotonic() - started
            progress(f"pair {launched}, {spent:.0f} s: {len(undecided)} of {len(workloads)} undecided")
    for one in undecided:
        yield one.workload, one.verdict()


def _launch(undecided: Sequence[Found], launcher: Launcher, *, head_first: bool) -> None:
    """One pair for all; a worker that dies takes along the pair, and the benchmark that it died of."""
    left = list(undecided)
    while left:
        with launcher.pair(head_first=head_first) as pair:
            try:
                while left:
                    left[0].measure(pair)
                    left.pop(0)
            except Died as error:
                left.pop(0).died(error)


def _able(side: Side) -> bool:
    return not (side.missing or side.wrong)


def _of(thresholds: Any, w: Workload) -> Thresholds:
    if isinstance(thresholds, Mapping):
        return thresholds[w.id]
    return thresholds(w) if callable(thresholds) else thresholds
