"""The step that finds since which commit each benchmark is slower, as far as the night's time goes."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perf.compare.record import Finding
from perf.nightly import blame, compare, folder, verdict
from perf.nightly.process import status
from perf.nightly.steps import Skipped
from perf.nightly.tonight import Tonight, acceptance
from perf.system import git

LATE = "not bisected: the night's time for it had ended"


def results(night: Tonight) -> Path:
    return night.folder.path / "bisected.jsonl"


def bisection(night: Tonight) -> None:
    slower, why, spent = {}, acceptance(), 0.0
    for line in folder.lines(verdict.results(night)):
        spent += line["seconds"]
        one = compare.finding(line)
        if one.word == "regressed" and why(one) is None:
            slower[one.benchmark] = one.ratio or 1.0, line["base"]
    if not slower:
        raise Skipped("nothing regressed")
    request = night.folder.path / "bisect.json"
    folder.write(request, {"device": night.device, "bad": night.head,
                           "seconds": max(night.options.budget - spent, 0.0),
                           "wanted": [{"benchmark": name, "good": base} for name, (_, base) in
                                      sorted(slower.items(), key=lambda item: item[1][0], reverse=True)]})
    code = night.run("bisection", blame.__name__, str(request), str(results(night)))
    if code:
        raise ValueError(f"{status(code)}: {night.last_line('bisection')}; {night.folder.log('bisection')}")


def found(night: Tonight) -> dict[str, dict[str, Any]]:
    """By benchmark: `since` and `why`, and of the commit `author` and `subject`."""
    known = {}
    for line in folder.lines(results(night)):
        known[line["benchmark"]] = line | (_described(night.root, line["since"]) if line["since"] else {})
    return known


def with_commits(findings: list[Finding], known: Mapping[str, Mapping[str, Any]], lacking: str) -> list[Finding]:
    """The findings, those that regressed with the commit that did it, or why it isn't known. Pure."""
    told = []
    for one in findings:
        line = known.get(one.benchmark)
        if one.word != "regressed":
            told.append(one)
        elif line is None:
            told.append(replace(one, why=f"{one.why}; {lacking}"))
        else:
            why = "; ".join(filter(None, (one.why, line["why"])))
            told.append(replace(one, why=why, since=line["since"], author=line.get("author"),
                                subject=line.get("subject")))
    return told


def _described(root: Path, commit: str) -> dict[str, str]:
    try:
        return dict(zip(("author", "subject"), git.author_and_subject(root, commit), strict=True))
    except ValueError:
        return {}
