"""`python -m perf.nightly.compare REQUEST RESULTS`: live pairs of each benchmark that a night wants compared.

REQUEST is JSON: the device, the seconds for all of it, and what is `wanted`, the most pressing first. A line goes to
RESULTS as soon as a verdict is known; what has a line there is not measured again.
"""
from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from perf.compare import live, pairs
from perf.compare.checkout import ROOT, checkout, head_folder
from perf.compare.closure import unchanged
from perf.compare.record import Finding
from perf.compare.row import Row
from perf.nightly.folder import append, lines
from perf.policy.thresholds import Thresholds
from perf.run.revision import BENCHMARK, BUDGET, SAME, row
from perf.workloads.ids import workload
from perf.workloads.workload import Workload

T = TypeVar("T")
Compared = tuple[Finding, Sequence[float], float]  # with the log ratios of its pairs, and the seconds it took
AGAIN = "invalid"  # the word of what the machine spoiled


@dataclass(frozen=True)
class Wanted:
    """A benchmark by its id, and the commit to compare tonight's with. `thresholds` as `Thresholds` has them; None: the
    committed ones. With the same sources on both sides it is timed only if that is asked for: `timed`."""

    benchmark: str
    base: str
    thresholds: Mapping[str, Any] | None = None
    timed: bool = False


def main(request: Path, results: Path, root: Path = ROOT) -> None:
    asked = json.loads(request.read_text(encoding="utf-8"))
    known = found(results)
    spent = sum(line["seconds"] for line in lines(results))
    wanted = [each for told in asked["wanted"] if (each := Wanted(**told)).benchmark not in known
              or known[each.benchmark].word == AGAIN]
    bases = {each.benchmark: each.base for each in wanted}
    for one, ratios, seconds in compared(wanted, asked["device"], asked["seconds"] - spent, root):
        append(results, {"finding": asdict(one), "base": bases[one.benchmark], "ratios": list(ratios),
                         "seconds": seconds})
        print(f"{one.benchmark}: {one.word}: {one.why}", flush=True)


def found(results: Path) -> dict[str, Finding]:
    """By benchmark."""
    return {one.benchmark: one for one in map(finding, lines(results))}


def finding(line: Mapping[str, Any]) -> Finding:
    return Finding(**line["finding"] | {"samples": ()})


def compared(wanted: Sequence[Wanted], device: str, seconds: float, root: Path,
             clock: Callable[[], float] = time.monotonic) -> Iterator[Compared]:
    """Each as soon as it is decided. What the seconds don't suffice for is left out."""
    end = clock() + seconds
    for base, of_base in by(wanted, lambda one: one.base).items():
        with checkout(base, root) as folder:
            timed = []
            for one in of_base:
                w = workload(one.benchmark)
                if not one.timed and unchanged(w, folder, head_folder(root)):
                    yield Finding.of(Row(w, SAME, "unchanged")), (), 0.0
                else:
                    timed.append((w, one))
            for together in by(timed, lambda each: each[0].variant).values():  # they share their launches
                left = end - clock()
                if left <= 0:
                    return
                most = min(left, max(BUDGET[device.partition(":")[0]], BENCHMARK * len(together)))
                yield from _pairs(together, folder, head_folder(root), device, most, len(timed), clock)


def by(these: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """In groups, in the order of each one's first."""
    groups: dict[str, list[T]] = {}
    for one in these:
        groups.setdefault(key(one), []).append(one)
    return groups


def _pairs(together: Sequence[tuple[Workload, Wanted]], base: Path, head: Path, device: str, seconds: float,
           among: int, clock: Callable[[], float]) -> Iterator[Compared]:
    kind = live.kind(device)
    settings = {w.id: Thresholds(**one.thresholds) if one.thresholds else live.settings(w, kind, among)
                for w, one in together}
    cases: dict[str, pairs.Case] = {}
    began = clock()
    for w, verdict in pairs.compare([w for w, _ in together], base, head, device, settings, seconds,
                                    lambda line: print(f"  {line}", flush=True), cases=cases):
        yield Finding.of(row(verdict, cases[w.id])), cases[w.id].ratios, clock() - began
        began = clock()


def ended(signum: int, frame: Any) -> None:
    """Of a night that is ended: the base's folder goes too."""
    sys.exit(128 + signum)


def arguments(words: Sequence[str]) -> tuple[Path, Path]:
    request, results = map(Path, words)
    return request, results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ended)
    main(*arguments(sys.argv[1:]))
