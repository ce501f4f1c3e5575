"""The step that decides: tonight's commit against the last good one, benchmark by benchmark, by live pairs."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perf.decide.tree import resolve
from perf.measure.evidence import Evidence
from perf.nightly import compare, folder
from perf.nightly.good import last_good
from perf.nightly.measuring import measured
from perf.nightly.process import status
from perf.nightly.steps import Skipped, Unfit
from perf.nightly.tonight import Tonight, acceptance
from perf.track.night import Failed, Finding

PART = 0.75  # of the budget: the rest is bisection's at least
FIRST = "the first night on this hardware: nothing to compare with yet"
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
    against = base(night)
    if against is None:
        raise Skipped(FIRST)
    wanted = [name for name, row in measured(night.evidence).items() if row.outcome in ("ok", "invalid")]
    folder.write(request(night), {"device": night.device, "seconds": PART * night.options.budget,
                                  "wanted": [{"benchmark": name, "base": against} for name in wanted]})
    code = night.run("verdict", "perf.nightly.compare", str(request(night)), str(results(night)))
    if code:
        raise ValueError(f"{status(code)}: {night.last_line('verdict')}; {night.folder.log('verdict')}")
    words = [one.word for one in compare.found(results(night)).values()]
    if "invalid" in words and not any(word in DECIDED for word in words):
        why = next(one.why for one in compare.found(results(night)).values() if one.word == "invalid")
        raise Unfit(f"the machine was unfit for all that was compared: {why}")


def findings(evidence: Mapping[str, Evidence], compared: Mapping[str, Finding], lacking: str, *,
             first: bool) -> list[Finding]:
    """Of all that the head measured, or got wrong; `lacking` says why what has no verdict has none. Pure.

    `first`: there is nothing to compare with, so all is new."""
    found = []
    for name, row in evidence.items():
        if row.outcome == "wrong":
            found.append(Finding(name, "time", "seconds", "wrong", why=row.reason or ""))
        elif name in compared:
            found.append(compared[name])
        elif row.outcome == "invalid":
            found.append(Finding(name, "time", "seconds", "invalid", why=row.reason or ""))
        elif row.outcome == "ok":
            word = "new" if first else "inconclusive"
            found.append(Finding(name, "time", "seconds", word, head=row.median, why=lacking))
    return found


def failed(evidence: Mapping[str, Evidence]) -> list[Failed]:
    """What broke while it was measured. Pure."""
    return [Failed(name, row.reason or "no reason given") for name, row in evidence.items() if row.outcome == "failed"]
