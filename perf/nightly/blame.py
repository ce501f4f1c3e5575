"""`python -m perf.nightly.blame REQUEST RESULTS`: which commit made each benchmark of a night slower.

REQUEST is JSON: the device, the seconds for all of it, the commit `bad`, and what is `wanted`, the worst first: a
benchmark, and a commit at which it was good.
A line goes to RESULTS as soon as a commit is found; what has a line there is not searched again. Commits that leave the
code that a benchmark runs as it was (perf/compare/closure.py) are not asked; if one alone is left, nothing is measured.
A commit that made one benchmark slower is the first to be asked of the next.
"""
from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.compare.bisect import SECONDS, Compare, Measuring, between, comparing
from perf.compare.checkout import ROOT, checkout
from perf.compare.closure import fingerprint
from perf.nightly.compare import arguments, by, ended
from perf.nightly.folder import append, lines
from perf.system.devices import device
from perf.verdict.search import Found, Step, search
from perf.workloads.ids import workload
from perf.workloads.workload import Workload

TOLD = 3  # commits that are named beside the first


class Late(Exception):
    """The time for all of it has ended."""


@dataclass(frozen=True)
class Blame:
    """`since` is None where no commit was found; `why` says so, or what else there is to say of it ("")."""

    since: str | None
    why: str = ""


def main(request: Path, results: Path, root: Path = ROOT) -> None:
    asked = json.loads(request.read_text(encoding="utf-8"))
    known = {line["benchmark"]: line for line in lines(results)}
    place = device(asked["device"])
    end = time.monotonic() + asked["seconds"] - sum(line["seconds"] for line in known.values())
    wanted = [(one["good"], workload(one["benchmark"])) for one in asked["wanted"]
              if one["benchmark"] not in known]
    commits, refused = {}, {}
    for good, these in by(wanted, lambda one: one[0]).items():
        try:
            commits[good] = changing([w for _, w in these], good, between(root, good, asked["bad"]), root)
        except ValueError as error:  # it is no ancestor, or nothing lies between the two
            refused[good] = Blame(None, f"not bisected: {error}")
    before = [line["since"] for line in known.values() if line["since"]]
    for good, w in wanted:
        name = w.id
        print(name, flush=True)
        began = time.monotonic()
        compare = until(end, comparing(w, place))
        try:
            one = refused.get(good) or blamed(commits[good][name], good, compare, SECONDS[place.type], root, before)
        except Late:
            return
        append(results, {"benchmark": name, "since": one.since, "why": one.why, "seconds": time.monotonic() - began})
        before += [one.since] if one.since else []
        print(f"  {one.since}: {one.why}", flush=True)


def changing(workloads: Sequence[Workload], good: str, commits: Sequence[str], root: Path) -> dict[str, list[str]]:
    """The commits after which each benchmark runs other code than before; all of them where that can't be told."""
    found: dict[str, list[str]] = {w.id: [] for w in workloads}
    before: dict[str, str] = {}
    for commit in (good, *commits):
        try:
            with checkout(commit, root) as folder:
                now = {w.id: fingerprint(w, folder) for w in workloads}
        except (ValueError, SyntaxError):
            now = {}  # bisection will say why it can't be measured
        if commit != good:
            for name in found:
                if name not in now or now[name] != before.get(name):
                    found[name].append(commit)
        before = now
    return {name: kept or list(commits) for name, kept in found.items()}


def until(end: float, compare: Compare, clock: Callable[[], float] = time.monotonic) -> Compare:
    """The same, but raises Late from `end` on, and takes no longer than what is left."""
    def limited(base: Path, head: Path, seconds: float):
        left = end - clock()
        if left <= 0:
            raise Late
        return compare(base, head, min(seconds, left))

    return limited


def blamed(commits: Sequence[str], good: str, compare: Compare, seconds: float, root: Path,
           before: Sequence[str] = ()) -> Blame:
    """Of one benchmark, slower after the last of `commits` than at `good`. Raises Late."""
    if len(commits) == 1:
        return Blame(commits[0])
    line = [good, *commits]
    for commit in [commit for commit in dict.fromkeys(before) if commit in commits]:
        with checkout(line[line.index(commit) - 1], root) as base, checkout(commit, root) as head:
            if compare(base, head, seconds).word == "regressed":
                return Blame(commit)
    with checkout(good, root) as base:
        found = search(commits, Measuring(commits, base, compare, seconds, root))
    if not found.steps:
        return Blame(None, f"not bisected: measured again, it was {found.end.word}: {found.end.why}" if found.end else
                     "not bisected: the head could not be measured again")
    step = worst(found)
    return Blame(line[step.after], "; ".join(_more(line, step, found)))


def worst(found: Found) -> Step:
    """The step that takes most; the first one, where times don't tell."""
    def rise(step: Step) -> float:
        levels = [1.0 if at == 0 else found.verdicts[at].ratio or 1.0 for at in (step.before, step.after)]
        return math.log(levels[1] / levels[0]) if min(levels) > 0 else 0.0

    return max(found.steps, key=rise)


def _more(line: Sequence[str], step: Step, found: Found) -> Iterator[str]:
    if unclear := line[step.before + 1:step.after]:
        yield f"or by one of {_short(unclear)}, which gave no answer"
    if others := [line[other.after] for other in found.steps if other != step]:
        yield f"it changed by {_short(others)} too"


def _short(commits: Sequence[str]) -> str:
    more = f" and {len(commits) - TOLD} more" if len(commits) > TOLD else ""
    return " ".join(commit[:8] for commit in commits[:TOLD]) + more


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ended)
    main(*arguments(sys.argv[1:]))
