"""The record of a night, made from what its steps left: alerts and the site read it."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from perf.compare.record import Comparison, Finding
from perf.history import place
from perf.history.rows import load
from perf.nightly import bisection, compare, screen, verdict
from perf.nightly.folder import Result
from perf.nightly.measure import rows
from perf.nightly.night import Night, command, words
from perf.verdict.verdict import Verdict, family

NOTHING = "no earlier night"  # in place of a base
LATE = "not compared: the night's time for it had ended"
SAMPLES = 30  # of a benchmark's history
TIME = "time_call"


def save(night: Night, steps: Iterable[str]) -> Comparison:
    """Writes the record of a night, with those of `steps` that have ended."""
    record = comparison(night, [result for name in steps if (result := night.folder.result(name))])
    record.save(night.record)
    return record


def comparison(night: Night, results: Sequence[Result]) -> Comparison:
    """Makes the record from the results of the steps and what they left in the night's folder."""
    by_name = {one.name: one for one in results}
    decision, search = by_name.get("verdict"), by_name.get("bisection")
    first = decision is not None and decision.reason == verdict.FIRST
    no_verdict = decision.reason if decision and decision.outcome != "ok" else None
    evidence, screening = rows(night.evidence), screen.result(night)
    findings = verdict.findings(evidence, compare.findings(verdict.results(night)), no_verdict or LATE, first=first,
                                cleared=screening["cleared"] if screening else {})
    late = f"not bisected: {search.reason}" if search and search.outcome == "failed" else bisection.LATE
    findings = bisection.with_commits(findings, bisection.commits(night), late)
    device_type = night.device.partition(":")[0]
    environment = place.environment(night.machine.fingerprint, device_type)
    try:
        base = verdict.base(night)
    except ValueError:  # the step has said so
        base = night.options.last_good
    typed = command(night.device, night.options, base)
    return Comparison(
        night.folder.start, night.machine.id, night.machine.fingerprint, environment, base or NOTHING, night.head,
        typed, tuple(_with_samples(night, findings, device_type, environment)), tuple(verdict.failures(evidence)),
        tuple(vanished(night.earlier(), evidence, typed) if evidence else ()), tuple(one.step for one in results),
        (*(screening["notes"] if screening else ()), *family(_verdicts(findings))))


def vanished(earlier: Sequence[Comparison], tonight: Iterable[str], typed: str) -> list[str]:
    """Names the benchmarks that the last night with the same command had, and tonight has not. Pure."""
    same = (one for one in earlier if words(one.command) == words(typed) and one.findings)
    before, here = next(same, None), set(tonight)
    return sorted({one.benchmark for one in before.findings} - here) if before else []


def _verdicts(findings: Iterable[Finding]) -> dict[str, Verdict]:
    return {one.benchmark: Verdict(one.word, one.ratio, one.low, one.high, one.pairs, one.why, 0) for one in findings}


def _with_samples(night: Night, findings: Sequence[Finding], device_type: str, environment: str) -> list[Finding]:
    """Adds the last times of each benchmark, from the history."""
    if not night.options.results.is_dir():
        return list(findings)
    machine = place.machine(night.machine.fingerprint, device_type)["machine"]
    series: dict[str, list[tuple[str, float]]] = {}
    for row in load(night.options.results).rows:
        if (row.machine, row.environment, row.figure, row.dirty) == (machine, environment, TIME, False):
            series.setdefault(row.workload.id, []).append((row.commit, row.value))
    return [replace(one, samples=tuple(series.get(one.benchmark, ())[-SAMPLES:])) for one in findings]
