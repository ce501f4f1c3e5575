"""What a night says, of what its steps left: the record that alerts and the site read."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from perf.compare.record import Finding, Night
from perf.history import place
from perf.history.rows import load
from perf.nightly import bisection, compare, verdict
from perf.nightly.folder import Done
from perf.nightly.measuring import measured
from perf.nightly.screening import looked
from perf.nightly.tonight import Tonight, asked, command
from perf.verdict.verdict import Verdict, family

NOTHING = "no earlier night"  # in place of a base
SAMPLES = 30  # of a benchmark's history
TIME = "time_call"


def save(night: Tonight, steps: Iterable[str]) -> Night:
    """Writes the record, with these steps as far as they ended."""
    done = [found for name in steps if (found := night.folder.done(name))]
    made = record(night, done)
    made.save(night.record)
    return made


def record(night: Tonight, done: Sequence[Done]) -> Night:
    became = {one.name: one for one in done}
    decided, searched = became.get("verdict"), became.get("bisection")
    first = decided is not None and decided.reason == verdict.FIRST
    lacking = (decided.reason if decided and decided.outcome != "ok" else None) or "not compared: the night's time " \
                                                                                 "for it had ended"
    rows = measured(night.evidence)
    look = looked(night)
    found = verdict.findings(rows, compare.found(verdict.results(night)), lacking, first=first,
                             cleared=look["cleared"] if look else {})
    late = f"not bisected: {searched.reason}" if searched and searched.outcome == "failed" else bisection.LATE
    found = bisection.with_commits(found, bisection.found(night), late)
    device_type = night.device.partition(":")[0]
    environment = place.environment(night.look.fingerprint, device_type)
    earlier = night.earlier()
    try:
        base = verdict.base(night)
    except ValueError:  # the step has said so
        base = night.options.last_good
    again = command(night.device, night.options, base)
    return Night(night.folder.began, night.look.id, night.look.fingerprint, environment, base or NOTHING,
                 night.head, again, tuple(_with_samples(night, found, device_type, environment)),
                 tuple(verdict.failed(rows)), tuple(vanished(earlier, rows, again) if rows else ()),
                 tuple(one.told for one in done), (*(look["notes"] if look else ()), *family(_verdicts(found))))


def vanished(earlier: Sequence[Night], tonight: Iterable[str], typed: str) -> list[str]:
    """What the last night that measured by the same command had, and tonight, being asked the same, has not. Pure."""
    words = asked(Night(0.0, "", {}, "", "", "", typed))
    before = next((one for one in earlier if asked(one) == words and one.findings), None)
    here = set(tonight)
    return sorted({one.benchmark for one in before.findings} - here) if before else []


def _verdicts(findings: Iterable[Finding]) -> dict[str, Verdict]:
    return {one.benchmark: Verdict(one.word, one.ratio, one.low, one.high, one.pairs, one.why, 0) for one in findings}


def _with_samples(night: Tonight, findings: Sequence[Finding], device_type: str, environment: str) -> list[Finding]:
    """The last times of each benchmark's series, from the history."""
    if not night.options.results.is_dir():
        return list(findings)
    machine = place.machine(night.look.fingerprint, device_type)["machine"]
    series: dict[str, list[tuple[str, float]]] = {}
    for row in load(night.options.results).rows:
        if (row.machine, row.environment, row.figure, row.dirty) == (machine, environment, TIME, False):
            series.setdefault(row.workload.id, []).append((row.commit, row.value))
    return [replace(one, samples=tuple(series.get(one.benchmark, ())[-SAMPLES:])) for one in findings]
