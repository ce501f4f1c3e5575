"""The step that decides: tonight's commit against the last good one, benchmark by benchmark, by live pairs."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from perf.compare.checkout import resolve
from perf.compare.record import Failed, Finding, Night
from perf.history import figures
from perf.measure.evidence import Evidence
from perf.nightly import compare, folder
from perf.nightly.compare import Wanted
from perf.nightly.good import last_good
from perf.nightly.measuring import measured
from perf.nightly.process import status
from perf.nightly.screening import looked
from perf.nightly.steps import Skipped, Unfit
from perf.nightly.tonight import Tonight, acceptance
from perf.verdict.nightly import Suspect
from perf.verdict.verdict import Verdict

PART = 0.75  # of the budget: the rest is bisection's at least
FIRST = "the first night on this hardware: nothing to compare with yet"
COUNTED = {"launches": 1.0, "peak_bytes": 1.01, "error": 1.5}  # figure -> how much more is borne
DECIDED = ("ok", "improved", "regressed", "unchanged", "wrong")


def base(night: Tonight) -> str | None:
    """The full hash of the commit to compare with; None on the first night. Raises ValueError for an unknown one."""
    revision = night.options.last_good or last_good(night.earlier(), acceptance())
    return resolve(night.root, revision) if revision else None


def request(night: Tonight) -> Path:
    return night.folder.path / "compare.json"


def results(night: Tonight) -> Path:
    return night.folder.path / "compared.jsonl"


def verdict(night: Tonight) -> None:
    against, look = base(night), looked(night)
    if against is None and look is None:
        raise Skipped(FIRST)
    rows = {name: row for name, row in measured(night.evidence).items() if row.outcome in ("ok", "invalid")}
    if look is None:
        wanted = [Wanted(name, against) for name in rows if against]
    else:
        wanted = pressing(look, rows, against, counted(night, rows, against))
    open_ = outstanding(night.earlier())
    wanted = [replace(one, timed=one.timed or one.benchmark in open_) for one in wanted]
    folder.write(request(night), {"device": night.device, "seconds": PART * night.options.budget,
                                  "wanted": [asdict(one) for one in wanted]})
    code = night.run("verdict", compare.__name__, str(request(night)), str(results(night)))
    if code:
        raise ValueError(f"{status(code)}: {night.last_line('verdict')}; {night.folder.log('verdict')}")
    words = [one.word for one in compare.found(results(night)).values()]
    if "invalid" in words and not any(word in DECIDED for word in words):
        why = next(one.why for one in compare.found(results(night)).values() if one.word == "invalid")
        raise Unfit(f"the machine was unfit for all that was compared: {why}")


def outstanding(earlier: Sequence[Night]) -> set[str]:
    """The benchmarks that regressed in one of `earlier` nights, the newest first, and whose time was not good since.
    They are timed though their sources are the same again, since their issue is closed by a time. Pure."""
    found: set[str] = set()
    for night in reversed(earlier):
        found |= {one.benchmark for one in night.findings if one.word == "regressed"}
        found -= {one.benchmark for one in night.findings if one.word in ("ok", "improved")}
    return found


def pressing(look: Mapping[str, Any], names: Iterable[str], against: str | None,
             counts: Collection[str]) -> list[Wanted]:
    """What is compared, the most pressing first: suspects, by settings that history has learned; then, with the last
    good commit and by the committed settings, what history can promise nothing of yet, or whose counts rose; then
    audits, timed even if their sources are the same. Pure."""
    def settled(one: Suspect, timed: bool) -> Wanted:
        learned = asdict(one.thresholds) if look["promised"].get(one.benchmark) is not None else None
        return Wanted(one.benchmark, one.base, learned, timed)

    suspects = {one.benchmark: settled(one, False) for one in look["suspects"]}
    others = [Wanted(name, against) for name in names if against and name not in suspects
              and (look["promised"].get(name) is None or name in counts)]
    taken = {*suspects, *(one.benchmark for one in others)}
    return [*suspects.values(), *others,
            *(settled(one, True) for one in look["audits"] if one.benchmark not in taken)]


def counted(night: Tonight, rows: Mapping[str, Evidence], against: str | None) -> set[str]:
    """The benchmarks of which a figure without noise is higher than the history has it of the last good commit."""
    if against is None or not night.options.results.is_dir():
        return set()
    from perf.history import rows as history

    known = {(row.workload.id, row.figure): row.value for row in history.load(night.options.results).rows
             if row.commit == against and row.figure.removeprefix("track_") in COUNTED and not row.dirty}
    found = set()
    for name, row in rows.items():
        if row.outcome != "ok":
            continue
        for figure, slack in COUNTED.items():
            now, before = getattr(figures.of(row), figure), known.get((name, f"track_{figure}"))
            if now is not None and before is not None and now > before * slack:
                found.add(name)
    return found


def findings(evidence: Mapping[str, Evidence], compared: Mapping[str, Finding], lacking: str, *, first: bool,
             cleared: Mapping[str, Verdict] = MappingProxyType({})) -> list[Finding]:
    """Of all that the head measured, or got wrong; `lacking` says why what has no verdict has none. Pure.

    `first`: there is nothing to compare with, so all is new. `cleared` are history's verdicts on what was not
    compared."""
    found = []
    for name, row in evidence.items():
        if row.outcome == "wrong":
            found.append(Finding(name, "time", "seconds", "wrong", why=row.reason or ""))
        elif name in compared:
            found.append(compared[name])
        elif name in cleared:
            v = cleared[name]
            found.append(Finding(name, "time", "seconds", v.word, None, row.median, v.ratio, v.low, v.high, 0, v.why,
                                 v.certified))
        elif row.outcome == "invalid":
            found.append(Finding(name, "time", "seconds", "invalid", why=row.reason or ""))
        elif row.outcome == "ok":
            word = "new" if first else "inconclusive"
            found.append(Finding(name, "time", "seconds", word, head=row.median, why=lacking))
    return found


def failed(evidence: Mapping[str, Evidence]) -> list[Failed]:
    """What broke while it was measured. Pure."""
    return [Failed(name, row.reason or "no reason given") for name, row in evidence.items() if row.outcome == "failed"]
