"""The step that compares tonight's commit with the last good one, benchmark by benchmark, by live pairs."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from perf.alerts.sets import Why, alarms
from perf.compare.checkout import resolve
from perf.compare.record import Comparison, Failed, Finding
from perf.history import figures
from perf.measure.evidence import Evidence
from perf.nightly import compare, screen
from perf.nightly.compare import Request
from perf.nightly.measure import rows
from perf.nightly.night import Night, acceptance
from perf.nightly.steps import COMPARED, Skipped, Unfit, write
from perf.verdict.nightly import Suspect
from perf.verdict.verdict import Verdict

PART = 0.75  # of the budget: the rest is bisection's at least
FIRST = "the first night on this hardware: nothing to compare with yet"
COUNTED = {"launches": 1.0, "peak_bytes": 1.01, "error": 1.5}  # figure -> how much more is borne
DECIDED = ("ok", "improved", "regressed", "unchanged", "wrong")


def base(night: Night) -> str | None:
    """Returns the full hash of the commit to compare with; None on the first night. Raises ValueError for an unknown
    one."""
    revision = night.options.last_good or last_quiet(night.earlier(), acceptance())
    return resolve(night.root, revision) if revision else None


def last_quiet(earlier: Iterable[Comparison], accepted: Why) -> str | None:
    """Returns the head of the newest quiet night of `earlier`, which begins with the newest; None without one."""
    return next((one.head for one in earlier if quiet(one, accepted)), None)


def quiet(comparison: Comparison, accepted: Why) -> bool:
    """Tells whether a night measured, compared if there was something to compare with, and nothing regressed that is
    not accepted by now.

    What is merely undecided does not stand in the way: tomorrow it would be so again, and the base would never move.
    """
    outcomes = {step.name: step.outcome for step in comparison.steps}
    measured = outcomes.get("benchmarks") == "ok" and outcomes.get("verdict") != "failed"
    return measured and not alarms(comparison, accepted)


def verdict(night: Night) -> None:
    """Compares what the screen asks for; without one, every benchmark."""
    against, screening = base(night), screen.result(night)
    if against is None and screening is None:
        raise Skipped(FIRST)
    evidence = {name: row for name, row in rows(night.evidence).items() if row.outcome in ("ok", "invalid")}
    if screening is None:
        requests = [Request(name, against) for name in evidence if against]
    else:
        requests = by_urgency(screening, evidence, against, higher_counts(night, evidence, against))
    open_ = open_regressions(night.earlier())
    requests = [replace(one, timed=one.timed or one.benchmark in open_) for one in requests]
    request = night.folder.path / "compare.json"
    write(request, {"device": night.device, "seconds": PART * night.options.budget,
                    "wanted": [asdict(one) for one in requests]})
    results = night.folder.path / COMPARED
    night.demand("verdict", compare.__name__, str(request), str(results))
    compared = compare.findings(results).values()
    if (invalid := next((one for one in compared if one.word == "invalid"), None)) and not any(
            one.word in DECIDED for one in compared):
        raise Unfit(f"the machine was unfit for all that was compared: {invalid.why}")


def open_regressions(earlier: Sequence[Comparison]) -> set[str]:
    """Names the benchmarks that regressed on an earlier night and whose time was not good since. `earlier` begins with
    the newest night.

    They are timed though their sources are the same again, since their issue is closed by a time. Pure.
    """
    names: set[str] = set()
    for comparison in reversed(earlier):
        names |= {one.benchmark for one in comparison.findings if one.word == "regressed"}
        names -= {one.benchmark for one in comparison.findings if one.word in ("ok", "improved")}
    return names


def by_urgency(screening: Mapping[str, Any], names: Iterable[str], against: str | None,
               counts: Collection[str]) -> list[Request]:
    """Orders what is to be compared, the most urgent first.

    Suspects come first, by thresholds that history has taught; then, with the last good commit and by the committed
    thresholds, what history can promise nothing of yet, or whose counts rose; then audits, timed even if their sources
    are the same. Pure.
    """
    def request(one: Suspect, timed: bool) -> Request:
        promise = screening["promised"].get(one.benchmark)
        return Request(one.benchmark, one.base, None if promise is None else asdict(one.thresholds), timed)

    suspects = {one.benchmark: request(one, False) for one in screening["suspects"]}
    others = {name: Request(name, against) for name in names if against and name not in suspects
              and (screening["promised"].get(name) is None or name in counts)}
    audits = [request(one, True) for one in screening["audits"] if one.benchmark not in {*suspects, *others}]
    return [*suspects.values(), *others.values(), *audits]


def higher_counts(night: Night, rows: Mapping[str, Evidence], against: str | None) -> set[str]:
    """Names the benchmarks of which a figure without noise is higher than the history has it at `against`."""
    if against is None or not night.options.results.is_dir():
        return set()
    from perf.history import rows as history

    before = {(row.workload.id, row.figure): row.value for row in history.load(night.options.results).rows
             if row.commit == against and row.figure.removeprefix("track_") in COUNTED and not row.dirty}
    names = set()
    for name, row in rows.items():
        if row.outcome != "ok":
            continue
        for figure, slack in COUNTED.items():
            now, then = getattr(figures.of(row), figure), before.get((name, f"track_{figure}"))
            if now is not None and then is not None and now > then * slack:
                names.add(name)
    return names


def findings(evidence: Mapping[str, Evidence], compared: Mapping[str, Finding], no_verdict: str, *, first: bool,
             cleared: Mapping[str, Verdict] = MappingProxyType({})) -> list[Finding]:
    """Lists a finding for each benchmark that the head measured, or got wrong; `no_verdict` is the reason of those that
    were not compared. Pure.

    `first`: there is nothing to compare with, so all is new. `cleared` are history's verdicts on what was not compared.
    """
    def finding(name: str, row: Evidence) -> Finding:
        if name in compared and row.outcome != "wrong":
            return compared[name]
        if (v := cleared.get(name)) and row.outcome != "wrong":
            return Finding(name, "time", "seconds", v.word, None, row.median, v.ratio, v.low, v.high, 0, v.why,
                           v.certified)
        if row.outcome == "ok":
            return Finding(name, "time", "seconds", "new" if first else "inconclusive", head=row.median, why=no_verdict)
        return Finding(name, "time", "seconds", row.outcome, why=row.reason or "")

    return [finding(name, row) for name, row in evidence.items() if row.outcome in ("ok", "wrong", "invalid")
            or name in compared or name in cleared]


def failures(evidence: Mapping[str, Evidence]) -> list[Failed]:
    """Lists what broke while it was measured. Pure."""
    return [Failed(name, row.reason or "no reason given") for name, row in evidence.items() if row.outcome == "failed"]
