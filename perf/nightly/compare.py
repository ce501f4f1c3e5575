"""`python -m perf.nightly.compare REQUEST RESULTS` measures live pairs of each benchmark that a night wants compared.

REQUEST is JSON: the device, the seconds for all of it, and what is `wanted`, the most urgent first. A line goes to
RESULTS as soon as a verdict is known; what has a line there is not measured again.
"""
from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perf.compare import pairs
from perf.compare.checkout import checkout, working_tree
from perf.compare.closure import changed, unchanged
from perf.compare.project import root
from perf.compare.record import Finding, Row
from perf.compare.side import Side
from perf.nightly.process import stop
from perf.policy.thresholds import Thresholds
from perf.system import files
from perf.system.tools import group_by
from perf.verdict.verdict import Verdict
from perf.workloads.ids import workload
from perf.workloads.workload import Workload

Decision = tuple[Finding, Sequence[float], float]  # with the log ratios of its pairs, and the seconds it took
AGAIN = "invalid"  # the word of what the machine spoiled, which is measured again


@dataclass(frozen=True)
class Request:
    """Names a benchmark by its id, and the commit to compare tonight's with.

    `thresholds` are the fields of `Thresholds`; None means the committed ones. With the same sources on both sides it
    is timed only if `timed` asks for it.
    """

    benchmark: str
    base: str
    thresholds: Mapping[str, Any] | None = None
    timed: bool = False


def main(request: Path, results: Path, root: Path) -> None:
    """Compares what the request asks for and the results lack."""
    job = json.loads(request.read_text(encoding="utf-8"))
    before = findings(results)
    spent = sum(line["seconds"] for line in files.records(results))
    requests = [each for fields in job["wanted"] if (each := Request(**fields)).benchmark not in before
                or before[each.benchmark].word == AGAIN]
    bases = {each.benchmark: each.base for each in requests}
    for one, ratios, seconds in decide(requests, job["device"], job["seconds"] - spent, root):
        files.append(results, {"finding": asdict(one), "base": bases[one.benchmark], "ratios": list(ratios),
                         "seconds": seconds})
        print(f"{one.benchmark}: {one.word}: {one.why}", flush=True)


def findings(results: Path) -> dict[str, Finding]:
    """Reads the findings by benchmark."""
    return {one.benchmark: one for one in map(finding, files.records(results))}


def finding(line: Mapping[str, Any]) -> Finding:
    """Reads the finding of a line."""
    return Finding(**line["finding"] | {"samples": ()})


def verdict(one: Finding) -> Verdict:
    """Returns the verdict that a finding holds, without what its pairs could have told apart."""
    return Verdict(one.word, one.ratio, one.low, one.high, one.pairs, one.why, 0)


def decide(requests: Sequence[Request], device: str, seconds: float, root: Path) -> Iterator[Decision]:
    """Compares each, and yields it as soon as it is decided. What the seconds don't suffice for is left out."""
    end = time.monotonic() + seconds
    for base, of_base in group_by(requests, lambda one: one.base).items():
        with checkout(base, root) as side, working_tree(root) as tree:
            timed = []
            for one in of_base:
                w = workload(one.benchmark)
                if not one.timed and unchanged(w, side, tree):
                    yield Finding.of(Row.unchanged(w)), (), 0.0
                else:
                    timed.append((w, one))
            for together in group_by(timed, lambda each: each[0].variant).values():  # they share their launches
                left = end - time.monotonic()
                if left <= 0:
                    return
                most = min(left, pairs.budget(device.partition(":")[0], len(together)))
                yield from _pairs(together, side, tree, device, most, len(timed))


def _pairs(together: Sequence[tuple[Workload, Request]], base: Side, head: Side, device: str, seconds: float,
           among: int) -> Iterator[Decision]:
    kind = pairs.kind(device)
    settings = {w.id: Thresholds(**one.thresholds) if one.thresholds else pairs.settings(w, kind, among)
                for w, one in together}
    cases: dict[str, pairs.Case] = {}
    timed = {w for w, one in together if one.timed}
    start = time.monotonic()
    for w, verdict in pairs.compare([w for w, _ in together], base, head, device, lambda w: settings[w.id], seconds,
                                    lambda line: print(f"  {line}", flush=True), cases=cases,
                                    changed=lambda w: None if w in timed else changed(w, base, head)):
        yield Finding.of(cases[w.id].row(verdict)), cases[w.id].ratios, time.monotonic() - start
        start = time.monotonic()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    main(Path(sys.argv[1]), Path(sys.argv[2]), root())
