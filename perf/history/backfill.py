"""Measures commits of the past by today's harness, each by one pytest run: asv's process a cell takes too long.

    python -m perf history backfill v1..main --most 6 --seconds 240 -- --perf-functions softmax

On a GPU every process costs seconds before its first measurement, and `asv run` starts one for each figure of each
cell. Here a commit costs one. The numbers go where `asv run`'s would, under the same names. Rounds visit the commits
to and fro, and a further round adds its samples, so that a machine that drifts does not make the newest look slow.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perf.compare.checkout import checkout
from perf.compare.project import project
from perf.compare.side import Side
from perf.history.results import Receipt, write
from perf.measure.evidence import load, machines
from perf.system import git

Measure = Callable[[Side, Path, Sequence[str]], str | None]  # side, evidence, options -> why there is none


@dataclass(frozen=True)
class Schedule:
    """Says what to measure: each commit, oldest first, in so many rounds, while there is time."""

    commits: Sequence[str]
    rounds: int = 1
    seconds: float = float("inf")
    options: Sequence[str] = ()  # of pytest

    def visits(self) -> Iterator[tuple[int, str]]:
        """Lists round and commit: there, and back."""
        for number in range(self.rounds):
            for commit in self.commits if number % 2 == 0 else reversed(self.commits):
                yield number, commit


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


def backfill(plan: Schedule, root: Path, folder: Path, *, measure: Measure | None = None,
             clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Measures commit by commit, writes into asv's results in `folder`, and says a line of each.

    No visit is begun that would end after `seconds`, by the longest so far.
    """
    start, longest = clock(), 0.0
    with tempfile.TemporaryDirectory(prefix="perf-backfill-") as scratch:
        for number, commit in plan.visits():
            begun = clock()
            if begun - start + longest > plan.seconds:
                yield f"{plan.seconds:g} s are spent: the rest is not measured"
                return
            try:
                receipt = _visit(root, commit, folder, Path(scratch), plan.options, number > 0, measure or run)
                text = "; ".join([f"{receipt.numbers} numbers", *receipt.notes])
            except ValueError as error:  # blank at this commit
                text = f"nothing: {error}"
            longest = max(longest, clock() - begun)
            yield f"{commit[:8]} round {number + 1}: {text} ({clock() - begun:.0f} s)"


def _visit(root: Path, commit: str, folder: Path, scratch: Path, options: Sequence[str], append: bool,
           measure: Measure) -> Receipt:
    evidence = scratch / "evidence.jsonl"  # the folder also keeps the ceilings, measured once
    evidence.unlink(missing_ok=True)
    with checkout(commit, root) as side:
        if side.missing:
            raise ValueError(side.missing)
        reason = measure(side, evidence, options)
    if not evidence.exists():
        raise ValueError(reason or "pytest left no evidence")
    rows = [replace(row, revision=commit) for row in load(evidence)]
    return write(rows, folder, machines=machines(evidence), root=root, append=append)


def run(side: Side, evidence: Path, options: Sequence[str]) -> str | None:
    """Makes one pytest run of a side; returns its last words, if it measured nothing."""
    command = [sys.executable, "-m", "pytest", "perf/", "--benchmark-only", "-q", "-p", "no:cacheprovider",
               f"--perf-evidence={evidence}", "--perf-unfit=invalid", *options]
    done = subprocess.run(command, cwd=side.folder, env=side.variables(), capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith("E")), lines[-1] if lines else None)
