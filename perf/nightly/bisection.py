"""The step that finds the commit since which each benchmark is slower, as far as the night's time goes.

The step asks a process of its own: `python -m perf.nightly.bisection REQUEST RESULTS`. REQUEST is JSON: the device,
the seconds for all of it, the commit `bad`, and what is `wanted`, the worst first: a benchmark, and a commit at which
it was good. A line goes to RESULTS as soon as a commit is found; what has a line there is not searched again. Commits
that leave the code that a benchmark runs as it was (perf/compare/closure.py) are not asked; if one alone is left,
nothing is measured. A commit that made one benchmark slower is the first to be asked of the next.
"""
from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perf.compare.bisect import SECONDS, Compare, Measuring, between, comparing, line_of
from perf.compare.checkout import checkout
from perf.compare.closure import fingerprint
from perf.compare.project import root
from perf.compare.record import Finding
from perf.compare.side import Side
from perf.nightly.compare import finding
from perf.nightly.night import Night, acceptance
from perf.nightly.process import stop
from perf.nightly.steps import BISECTED, COMPARED, Skipped, write
from perf.system import files, git
from perf.system.devices import device
from perf.system.tools import group_by
from perf.verdict.search import Outcome, Step, search
from perf.workloads.ids import workload
from perf.workloads.workload import Workload

LATE = "not bisected: the night's time for it had ended"
MOST = 3  # commits that are named beside the first


def bisection(night: Night) -> None:
    """Searches the commit of each regression that is not accepted, the worst first."""
    slower, why, spent = {}, acceptance(), 0.0
    for line in files.records(night.folder.path / COMPARED):
        spent += line["seconds"]
        one = finding(line)
        if one.word == "regressed" and why(one) is None:
            slower[one.benchmark] = one.ratio or 1.0, line["base"]
    if not slower:
        raise Skipped("nothing regressed")
    request = night.folder.path / "bisect.json"
    worst_first = sorted(slower.items(), key=lambda item: item[1][0], reverse=True)
    write(request, {"device": night.device, "bad": night.head, "seconds": max(night.options.budget - spent, 0.0),
                    "wanted": [{"benchmark": name, "good": base} for name, (_, base) in worst_first]})
    night.demand("bisection", __name__, str(request), str(night.folder.path / BISECTED))


def commits(night: Night) -> dict[str, dict[str, Any]]:
    """Reads the commit of each benchmark: `since` and `why`, and the commit's `author` and `subject`."""
    return {line["benchmark"]: line | (_described(night.root, line["since"]) if line["since"] else {})
            for line in files.records(night.folder.path / BISECTED)}


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


class Late(Exception):
    """Raised when the time for all of it has ended."""


@dataclass(frozen=True)
class Blame:
    """Names the commit `since` which a benchmark is slower; None where it was not found, for the reason `why`. Beside a
    commit `why` holds what else there is to say ("")."""

    since: str | None
    why: str = ""


def main(request: Path, results: Path, root: Path) -> None:
    """Searches what the request asks for and the results lack, as long as there is time."""
    job = json.loads(request.read_text(encoding="utf-8"))
    before = {line["benchmark"]: line for line in files.records(results)}
    place = device(job["device"])
    end = time.monotonic() + job["seconds"] - sum(line["seconds"] for line in before.values())
    searches = [(one["good"], workload(one["benchmark"])) for one in job["wanted"] if one["benchmark"] not in before]
    candidates, refusals = {}, {}
    for good, these in group_by(searches, lambda one: one[0]).items():
        try:
            candidates[good] = changes([w for _, w in these], good, between(root, good, job["bad"]), root)
        except ValueError as error:  # it is no ancestor, or nothing lies between the two
            refusals[good] = Blame(None, f"not bisected: {error}")
    culprits = [line["since"] for line in before.values() if line["since"]]
    for good, w in searches:
        name = w.id
        print(name, flush=True)
        start = time.monotonic()
        compare = until(end, comparing(w, place))
        try:
            one = refusals.get(good) or find(candidates[good][name], good, compare, SECONDS[place.type], root,
                                             culprits)
        except Late:
            return
        files.append(results, {"benchmark": name, "since": one.since, "why": one.why,
                               "seconds": time.monotonic() - start})
        culprits += [one.since] if one.since else []
        print(f"  {one.since}: {one.why}", flush=True)


def changes(workloads: Sequence[Workload], good: str, commits: Sequence[str], root: Path) -> dict[str, list[str]]:
    """Returns, by benchmark, the commits after which it runs other code than before; all where that can't be told."""
    changed: dict[str, list[str]] = {w.id: [] for w in workloads}
    before: dict[str, str] = {}
    for commit in (good, *commits):
        try:
            with checkout(commit, root) as side:
                now = {w.id: fingerprint(w, side) for w in workloads}
        except (ValueError, SyntaxError):
            now = {}  # bisection will say why it can't be measured
        if commit != good:
            for name, its in changed.items():
                if name not in now or now[name] != before.get(name):
                    its.append(commit)
        before = now
    return {name: its or list(commits) for name, its in changed.items()}


def until(end: float, compare: Compare, clock: Callable[[], float] = time.monotonic) -> Compare:
    """Returns `compare`, but it raises Late from `end` on, and takes no longer than what is left."""
    def limited(base: Side, head: Side, seconds: float):
        left = end - clock()
        if left <= 0:
            raise Late
        return compare(base, head, min(seconds, left))

    return limited


def find(commits: Sequence[str], good: str, compare: Compare, seconds: float, root: Path,
         culprits: Sequence[str] = ()) -> Blame:
    """Finds the commit that made one benchmark slower: it is slower after the last of `commits` than at `good`.

    The `culprits` of other benchmarks are tried first. Raises Late.
    """
    if len(commits) == 1:
        return Blame(commits[0])
    line = [good, *commits]
    for commit in [commit for commit in dict.fromkeys(culprits) if commit in commits]:
        with checkout(line[line.index(commit) - 1], root) as base, checkout(commit, root) as head:
            if compare(base, head, seconds).word == "regressed":
                return Blame(commit)
    with checkout(good, root) as base:
        result = search(commits, Measuring(line_of(good, commits, root), base, compare, seconds))
    if not result.steps:
        why = f"measured again, it was {result.end.word}: {result.end.why}" if result.end else (
            "the head could not be measured again")
        return Blame(None, f"not bisected: {why}")
    step = worst(result)
    return Blame(line[step.after], "; ".join(_more(line, step, result)))


def worst(outcome: Outcome) -> Step:
    """Returns the step that takes most; the first one, where times don't tell."""
    def rise(step: Step) -> float:
        levels = [1.0 if at == 0 else outcome.verdicts[at].ratio or 1.0 for at in (step.before, step.after)]
        return math.log(levels[1] / levels[0]) if min(levels) > 0 else 0.0

    return max(outcome.steps, key=rise)


def _more(line: Sequence[str], step: Step, outcome: Outcome) -> Iterator[str]:
    if unclear := line[step.before + 1:step.after]:
        yield f"or by one of {_short(unclear)}, which gave no answer"
    if others := [line[other.after] for other in outcome.steps if other != step]:
        yield f"it changed by {_short(others)} too"


def _short(commits: Sequence[str]) -> str:
    more = f" and {len(commits) - MOST} more" if len(commits) > MOST else ""
    return " ".join(commit[:8] for commit in commits[:MOST]) + more


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    main(Path(sys.argv[1]), Path(sys.argv[2]), root())
