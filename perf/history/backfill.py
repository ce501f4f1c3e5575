"""Measures commits of the past by today's harness, each in one process: asv's process a cell takes too long.

    python -m perf history backfill v1..main --most 6 --seconds 240 -- --perf-functions softmax

The numbers go where `asv run`'s would, under the same names. A round visits the last commit, the first, then the middle
of every gap: a run that is cut spans the history, and a machine that drifts does not make the newest look slow. A
further round goes the other way, and adds its samples. `Narrowing` halves the gaps in which a time stepped instead.
"""
from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perf.compare.checkout import checkout, judge_by_today
from perf.compare.project import project
from perf.compare.side import PACKAGES
from perf.history import rows as history
from perf.history.process import Measure
from perf.history.results import Receipt, write
from perf.measure.evidence import load, machines
from perf.system import git
from perf.verdict import drift


@dataclass(frozen=True)
class Schedule:
    """Says which commits to measure, oldest first, in so many rounds, while there is time."""

    commits: Sequence[str]
    rounds: int = 1
    seconds: float = float("inf")

    def visits(self) -> Iterator[tuple[int, str]]:
        """Lists round and commit."""
        order = halved(self.commits)
        for number in range(self.rounds):
            for commit in order if number % 2 == 0 else reversed(order):
                yield number, commit


@dataclass(frozen=True)
class Narrowing(Schedule):
    """Says which commit to measure next, so that each step of a time in `folder` stands at the commit that made it: the
    middle of those between the step and the commit measured before. A commit that gives no number is asked once."""

    folder: Path = Path()

    def visits(self) -> Iterator[tuple[int, str]]:
        """Lists round and commit, by what the folder holds when it is asked."""
        left = list(self.commits)
        while gap := self._gap(left):
            commit = gap[len(gap) // 2]
            yield 0, commit
            left.remove(commit)

    def _gap(self, left: Sequence[str]) -> list[str]:
        """Returns the longest run of commits, `left` to measure, between a step and the commit before it."""
        place = {commit: number for number, commit in enumerate(self.commits)}
        gaps = [[c for c in self.commits[place[before] + 1:place[after]] if c in left]
                for before, after in steps(self.folder) if before in place and after in place]
        return max(gaps, key=len, default=[])


def commits_in(folder: Path) -> set[str]:
    """Returns the commits of which the folder, if there is one, has numbers."""
    return {row.commit for row in history.load(folder).rows} if folder.is_dir() else set()


def steps(folder: Path) -> Iterator[tuple[str, str]]:
    """Lists the two measured commits between which a time stepped, for each step. Raises ValueError without history."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no history yet, so no step to narrow; measure some commits without --narrow first")
    for (*_, figure), rows in history.load(folder).lines.items():
        if figure == "time_call":
            for change in drift.steps([row.value for row in rows]):
                yield rows[change.at - 1].commit, rows[change.at].commit


def halved(items: Sequence[str]) -> list[str]:
    """Orders the items so that the first few of them span all: the last, the first, then the middle of each gap."""
    ends, gaps, middles = [*items[-1:], *items[:1]][:len(items)], deque([(0, len(items) - 1)]), []
    while gaps:
        low, high = gaps.popleft()
        if high - low > 1:
            middle = (low + high) // 2
            middles.append(items[middle])
            gaps += [(low, middle), (middle, high)]
    return [*ends, *middles]


def commits(root: Path, revisions: str, most: int) -> list[str]:
    """Chooses `most` of the commits in a range such as v1..main that changed what is measured, evenly spread, the
    last among them; oldest first. Others would measure the same code.

    Raises ValueError, in one line, for what is no range of this repository.
    """
    try:
        names = git.commits(root, revisions, *project(root).paths)
    except ValueError:
        names = []
    if not names:
        raise ValueError(f"no commits in {revisions!r} of {root} that change what is measured; give a range such as "
                         "HEAD~10..HEAD")
    return spread(names, most)


def spread(items: Sequence[str], most: int) -> list[str]:
    """Chooses `most` of the items, evenly, the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[len(items) - 1 - round(i * (len(items) - 1) / max(1, most - 1))] for i in reversed(range(most))]


def backfill(plan: Schedule, root: Path, folder: Path, measure: Measure, *,
             clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Measures commit by commit, writes into asv's results in `folder`, and says a line of each.

    No visit is begun that would end after `seconds`, by the longest so far; the first, which fills compilers' caches,
    counts no more after the second.
    """
    start, took = clock(), list[float]()
    with tempfile.TemporaryDirectory(prefix="perf-backfill-") as scratch:
        for number, commit in plan.visits():
            begun = clock()
            if begun - start + max(took[1:] or took, default=0.0) > plan.seconds:
                yield f"{plan.seconds:g} s are spent: the rest is not measured"
                return
            try:
                receipt = _visit(root, commit, folder, Path(scratch), number > 0, measure)
                text = "; ".join([f"{receipt.numbers} numbers", *receipt.notes])
            except ValueError as error:  # blank at this commit
                text = f"nothing: {error}"
            took.append(clock() - begun)
            yield f"{commit[:8]} round {number + 1}: {text} ({took[-1]:.0f} s)"


def _visit(root: Path, commit: str, folder: Path, scratch: Path, append: bool, measure: Measure) -> Receipt:
    evidence = scratch / "evidence.jsonl"  # the folder also keeps the ceilings, measured once
    evidence.unlink(missing_ok=True)
    with checkout(commit, root) as side:
        if side.missing:
            raise ValueError(side.missing)
        if side.packages == PACKAGES:
            judge_by_today(side.folder / PACKAGES[0])
        reason = measure(side, evidence)
    if not evidence.exists():
        raise ValueError(reason or "it has none of what is measured")
    rows = [replace(row, revision=commit) for row in load(evidence)]
    return write(rows, folder, machines=machines(evidence), root=root, append=append)
