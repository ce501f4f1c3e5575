"""The last steps of a night, which run whatever the outcome of the others: the alert and the site.

Both read the record of the night, which is made from what its steps left.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perf.compare.record import Comparison, Finding
from perf.history import place
from perf.history.rows import load
from perf.nightly import bisection, compare, screen, verdict
from perf.nightly.measure import rows
from perf.nightly.night import Night, command, words
from perf.nightly.steps import COMPARED, Result, Skipped
from perf.system.tools import ending, group_by
from perf.verdict.verdict import family

NOTHING = "no earlier night"  # in place of a base
LATE = "not compared: the night's time for it had ended"
SAMPLES = 30  # of a benchmark's history
TIME = "time_call"
MEASURING = ("machine", "tests", "benchmarks", "launches", "screen", "verdict", "bisection", "learn")


def alert(night: Night) -> None:
    """Opens, updates and closes issues on GitHub. Without GitHub the messages are in the log."""
    save(night, MEASURING)
    repository = night.options.repository or os.environ.get("GITHUB_REPOSITORY")
    obstacle = None if os.environ.get("GITHUB_TOKEN") else "the environment has no GITHUB_TOKEN"
    obstacle = obstacle or (None if repository else "no repository is named: --repository OWNER/NAME")
    log = night.folder.log("alert")
    if obstacle or not night.options.alert:
        code = night.run("alert", "perf", "alert", str(night.record))
        if not night.options.alert:
            raise Skipped("--no-alert")
        where = f"the messages are in {log}" if code == 0 else f"{night.last_line('alert')}; {log}"
        raise ValueError(f"{obstacle}; {where}; without GitHub: --no-alert")
    webhook = ["--webhook"] if os.environ.get("PERF_WEBHOOK_URL") else []
    code = night.run("alert", "perf", "alert", str(night.record), "--issues", f"--repository={repository}",
                     f"--folder={night.folder.path / 'alerts'}", *webhook, secrets=True)
    if code:
        raise ValueError(f"{night.last_line('alert') if code in (1, 2) else ending(code)}; {log}")


def site(night: Night) -> None:
    """Writes the history's pages, tonight's record among them."""
    if not night.options.site:
        raise Skipped("--no-site")
    save(night, (*MEASURING, "alert"))
    code = night.run("site", "perf", "site", f"--results={night.options.results}", f"--nights={night.options.nights}")
    if code:
        raise ValueError(f"{night.last_line('site') if code in (1, 2) else ending(code)}; {night.folder.log('site')}")


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
    findings = verdict.findings(evidence, compare.findings(night.folder.path / COMPARED), no_verdict or LATE,
                                first=first, cleared=screening["cleared"] if screening else {})
    late = f"not bisected: {search.reason}" if search and search.outcome == "failed" else bisection.LATE
    findings = bisection.with_commits(findings, bisection.commits(night), late)
    device_type = night.device.partition(":")[0]
    environment = place.environment(night.machine.fingerprint, device_type)
    verdicts = {one.benchmark: compare.verdict(one) for one in findings}
    try:
        base = verdict.base(night)
    except ValueError:  # the step has said so
        base = night.options.last_good
    typed = command(night.root, night.device, night.options, base)
    return Comparison(
        night.folder.start, night.machine.id, night.machine.fingerprint, environment, base or NOTHING, night.head,
        typed, tuple(_with_samples(night, findings, device_type, environment)), tuple(verdict.failures(evidence)),
        tuple(vanished(night.earlier(), evidence, typed) if evidence else ()), tuple(one.step for one in results),
        (*(screening["notes"] if screening else ()), *family(verdicts)))


def vanished(earlier: Sequence[Comparison], tonight: Iterable[str], typed: str) -> list[str]:
    """Names the benchmarks that the last night with the same command had, and tonight has not. Pure."""
    same = (one for one in earlier if words(one.command) == words(typed) and one.findings)
    before, here = next(same, None), set(tonight)
    return sorted({one.benchmark for one in before.findings} - here) if before else []


def _with_samples(night: Night, findings: Sequence[Finding], device_type: str, environment: str) -> list[Finding]:
    """Adds the last times of each benchmark, from the history."""
    if not night.options.results.is_dir():
        return list(findings)
    machine = place.machine(night.machine.fingerprint, device_type)["machine"]
    here = (row for row in load(night.options.results).rows
            if (row.machine, row.environment, row.figure, row.dirty) == (machine, environment, TIME, False))
    series = group_by(here, lambda row: row.workload.id)
    return [replace(one, samples=tuple((row.commit, row.value) for row in series.get(one.benchmark, ())[-SAMPLES:]))
            for one in findings]
