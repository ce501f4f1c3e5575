"""`python -m perf.nightly.compare REQUEST RESULTS`: live pairs of each benchmark that a night wants compared.

REQUEST is JSON: the device, the seconds for all of it, and `wanted`: benchmark and base commit of each. A line goes to
RESULTS as soon as a verdict is known; what has a line there is not measured again. With the same sources on both sides
a benchmark is not timed.
"""
from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from perf.cells import Workload
from perf.decide import live, pairs
from perf.decide.against import BENCHMARK, BUDGET, SAME, row
from perf.decide.closure import unchanged
from perf.decide.row import Row
from perf.decide.tree import ROOT, checkout, head_folder
from perf.nightly.folder import append, lines
from perf.track.night import Finding

AGAIN = "invalid"  # the word of what the machine spoiled


def main(request: Path, results: Path, root: Path = ROOT) -> None:
    asked = json.loads(request.read_text(encoding="utf-8"))
    known = found(results)
    spent = sum(line["seconds"] for line in lines(results))
    wanted = [(one["base"], live.workload(one["benchmark"])) for one in asked["wanted"]
              if one["benchmark"] not in known or known[one["benchmark"]].word == AGAIN]
    for verdict, seconds in compared(wanted, asked["device"], asked["seconds"] - spent, root):
        append(results, {"finding": asdict(verdict), "seconds": seconds})
        print(f"{verdict.benchmark}: {verdict.word}: {verdict.why}", flush=True)


def found(results: Path) -> dict[str, Finding]:
    """By benchmark."""
    each = (Finding(**line["finding"] | {"samples": ()}) for line in lines(results))
    return {one.benchmark: one for one in each}


def compared(wanted: Sequence[tuple[str, Workload]], device: str, seconds: float, root: Path,
             clock: Callable[[], float] = time.monotonic) -> Iterator[tuple[Finding, float]]:
    """Each finding, and the seconds it took. What the seconds don't suffice for is left out."""
    end = clock() + seconds
    for base, of_base in groupby(sorted(wanted, key=lambda one: (one[0], one[1].id)), key=lambda one: one[0]):
        with checkout(base, root) as folder:
            timed = []
            for w in [w for _, w in of_base]:
                if unchanged(w, folder, head_folder(root)):
                    yield Finding.of(Row(w, SAME, "unchanged")), 0.0
                else:
                    timed.append(w)
            for together in by_variant(timed):
                left = end - clock()
                if left <= 0:
                    return
                began = clock()
                most = min(left, max(BUDGET[device.partition(":")[0]], BENCHMARK * len(together)))
                for one in _pairs(together, folder, head_folder(root), device, most, len(timed)):
                    yield one, clock() - began
                    began = clock()


def by_variant(workloads: Sequence[Workload]) -> list[list[Workload]]:
    """They share their launches."""
    groups: dict[str, list[Workload]] = {}
    for w in workloads:
        groups.setdefault(w.variant, []).append(w)
    return list(groups.values())


def _pairs(together: Sequence[Workload], base: Path, head: Path, device: str, seconds: float,
           among: int) -> Iterator[Finding]:
    known: dict[str, pairs.Found] = {}
    for w, verdict in pairs.compare(together, base, head, device, lambda w: live.settings(w, among), seconds,
                                    lambda line: print(f"  {line}", flush=True), found=known):
        yield Finding.of(row(verdict, known[w.id]))


def ended(signum: int, frame: Any) -> None:
    """Of a night that is ended: the base's folder goes too."""
    sys.exit(128 + signum)


def arguments(words: Sequence[str]) -> tuple[Path, Path]:
    request, results = map(Path, words)
    return request, results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ended)
    main(*arguments(sys.argv[1:]))
