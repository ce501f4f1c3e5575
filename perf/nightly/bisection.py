"""The step that finds the commit since which each benchmark is slower, as far as the night's time goes."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perf.compare.record import Finding
from perf.nightly import blame, compare, folder, verdict
from perf.nightly.night import Night, acceptance
from perf.nightly.process import status
from perf.nightly.steps import Skipped
from perf.system import git

LATE = "not bisected: the night's time for it had ended"


def results(night: Night) -> Path:
    return night.folder.path / "bisected.jsonl"


def bisection(night: Night) -> None:
    """Searches the commit of each regression that is not accepted, the worst first."""
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


def commits(night: Night) -> dict[str, dict[str, Any]]:
    """Reads what was found, by benchmark: `since` and `why`, and the commit's `author` and `subject`."""
    return {line["benchmark"]: line | (_described(night.root, line["since"]) if line["since"] else {})
            for line in folder.lines(results(night))}


def with_commits(findings: list[Finding], commits: Mapping[str, Mapping[str, Any]], otherwise: str) -> list[Finding]:
    """Adds to each regression the commit that made it, or why that isn't known: `otherwise` if it was not searched.
    Pure."""
    def with_commit(one: Finding) -> Finding:
        if one.word != "regressed":
            return one
        if (line := commits.get(one.benchmark)) is None:
            return replace(one, why=f"{one.why}; {otherwise}")
        why = "; ".join(filter(None, (one.why, line["why"])))
        return replace(one, why=why, since=line["since"], author=line.get("author"), subject=line.get("subject"))

    return [with_commit(one) for one in findings]


def _described(root: Path, commit: str) -> dict[str, str]:
    try:
        return dict(zip(("author", "subject"), git.author_and_subject(root, commit), strict=True))
    except ValueError:
        return {}
