"""Compares two folders by live pairs, by the committed thresholds."""
from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from perf.compare import pairs
from perf.policy.thresholds import FILE, Thresholds, thresholds
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

# Workloads of one variant, base folder, head folder, seconds -> a verdict on each.
Compare = Callable[[Sequence[Workload], Path, Path, float], Iterable[tuple[Workload, Verdict]]]


def settings(w: Workload, among: int = 1) -> Thresholds:
    """What counts as a change of this benchmark, one of `among` that are compared together."""
    return thresholds(w.id, tomllib.loads(FILE.read_text(encoding="utf-8"))).among(among)


def comparing(device: torch.device, among: int = 1) -> Compare:
    """Live pairs on the device, whose progress goes to stderr; `among`: as in `settings`."""
    def compare(workloads: Sequence[Workload], base: Path, head: Path,
                seconds: float) -> Iterator[tuple[Workload, Verdict]]:
        return pairs.compare(workloads, base, head, str(device), lambda w: settings(w, among), seconds,
                             lambda line: print(f"    {line}", file=sys.stderr, flush=True))

    return compare
