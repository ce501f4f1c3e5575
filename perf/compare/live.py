"""Compares two sides by live pairs, by the committed thresholds and the spreads that this machine has shown.

`.perf/spreads.jsonl` keeps the spreads of launch pairs from run to run. A line is one benchmark of one run, on one
machine and device; the newest runs of a benchmark count.
"""
from __future__ import annotations

import atexit
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from perf.compare import pairs
from perf.compare.nursery import AVAILABLE, Nursery
from perf.compare.process import variables
from perf.compare.side import ROOT, Side
from perf.measure import machine
from perf.policy.thresholds import FILE, Thresholds, thresholds
from perf.system import files
from perf.verdict import spread
from perf.verdict.spread import Spread
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

SPREADS = Path(".perf/spreads.jsonl")
NEWEST = 4  # runs of a benchmark that count

# Workloads of one variant, base, head, seconds -> a verdict on each.
Compare = Callable[[Sequence[Workload], Side, Side, float], Iterable[tuple[Workload, Verdict]]]

VARIANT = {"cpu": 90.0, "cuda": 40.0}  # seconds for the pairs of one variant at least,
BENCHMARK = 12.0  # and for each of its benchmarks


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

    def keep(self, cases: Iterable[pairs.Case]) -> None:
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
    machine, spreads = kind(device), Spreads(SPREADS, device)

    def compare(workloads: Sequence[Workload], base: Side, head: Side,
                seconds: float) -> Iterator[tuple[Workload, Verdict]]:
        cases: dict[str, pairs.Case] = {}
        yield from pairs.compare(workloads, base, head, str(device), lambda w: settings(w, machine, among), seconds,
                                 lambda line: print(f"    {line}", file=sys.stderr, flush=True), cases=cases,
                                 earlier=spreads.earlier, nursery=nursery(str(device)))
        spreads.keep(cases.values())

    return compare
