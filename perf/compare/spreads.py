"""The spreads of launch pairs that this machine has shown, kept from run to run: `.perf/spreads.jsonl`.

    spreads = Spreads(path)
    compare(..., earlier=spreads.earlier, cases=cases)      # perf/compare/pairs.py
    spreads.keep(cases.values())

A line is one benchmark of one run, on one machine and device. The newest runs of a benchmark count.
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from perf.compare.pairs import Case
from perf.measure import machine
from perf.verdict import spread
from perf.verdict.spread import Spread

FILE = Path(".perf/spreads.jsonl")
NEWEST = 4  # runs of a benchmark that count


class Spreads:
    """Reads what `path` holds of this machine and `device`; a line that can't be read is not known."""

    def __init__(self, path: Path, device: torch.device | str) -> None:
        self.path, self.place = path, f"{machine.identity()} {device}"
        runs: dict[str, list[Spread]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                one = json.loads(line)
                if one["place"] == self.place:
                    runs.setdefault(one["benchmark"], []).append(Spread(**one["spread"]))
            except (ValueError, TypeError, KeyError):
                continue
        self.earlier = {name: sum(found[-NEWEST:-1], found[-1]) for name, found in runs.items()}

    def keep(self, cases: Iterable[Case]) -> None:
        """Adds the spread of each case's pairs to the file."""
        lines = [json.dumps({"place": self.place, "benchmark": case.workload.id, "spread": asdict(one)}) + "\n"
                 for case in cases if (one := spread.of(case.ratios))]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
