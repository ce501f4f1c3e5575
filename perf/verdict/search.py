"""The search finds the commits that made a benchmark slower: bisection over measurements that are noisy, and may not be
possible at all.

Pure: what measures a commit is given. A measurement is a verdict against the first commit (`good`); its word
answers, and the interval of its ratio tells whether that one step is the whole story. An answer that isn't clear
is asked for again and never guessed; a commit that gives none is left aside, and its neighbours are asked.

One clean step among 2 ** k commits takes k + 1 measured commits: the last one, and k halvings.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perf.verdict.verdict import Verdict

ATTEMPTS = 3  # measurements of one commit before it is left aside
SHARE = 0.25  # of the whole change, in logarithms: a part smaller than that is not searched for
MOST_STEPS = 8
UNUSABLE = ("missing", "new", "wrong")  # words that say nothing about time

Measure = Callable[[str], "Verdict | None"]
Question = Callable[["Verdict"], "bool | None"]


@dataclass(frozen=True)
class Step:
    """Says that the time changed after position `before` and not after position `after`; good is 0, the first commit
    after it 1.

    Of the commits between the two, if there are any, none gave an answer.
    """

    before: int
    after: int


@dataclass(frozen=True)
class Outcome:
    """Holds the verdict on the last commit, `end`, None if it can't be measured, and the `steps` in the order of
    commits.

    `verdicts` holds the last verdict of each commit measured, by position; `unusable` what could not be measured.
    """

    end: Verdict | None
    steps: tuple[Step, ...]
    verdicts: dict[int, Verdict]
    unusable: frozenset[int]


def search(commits: Sequence[str], measure: Measure) -> Outcome:
    """Steps among `commits`, oldest first, of which the last one is bad; good stands before the first.

    `measure(commit)` compares a commit with good; None where it can't be imported. There are no steps unless the
    last commit is `regressed`. Then the first one found is where `regressed` begins; what is left of the change
    before it and after it (a second step, a repair), if it is at least `SHARE` of the whole, is searched for too.
    """
    last = len(commits)
    known = _Measurements(commits, measure)
    if not known.ask(last, slower):
        return Outcome(known.verdicts.get(last), (), known.verdicts, frozenset(known.unusable))
    first = known.narrow(0, last, slower)
    steps = {first}
    for left, right in ((0, first.before), (first.after, last)):
        while left < right and len(steps) < MOST_STEPS and known.differ(left, right):
            step = known.narrow(left, right, departure(known.span(left), known.span(right)))
            steps.add(step)
            left = step.after
    return Outcome(known.verdicts[last], tuple(sorted(steps, key=lambda step: step.after)), known.verdicts,
                   frozenset(known.unusable))


def slower(verdict: Verdict) -> bool | None:
    """Tells whether the verdict's word says so; None where it decides nothing."""
    return {"regressed": True, "ok": False, "improved": False}.get(verdict.word)


def departure(floor: tuple[float, float], ceiling: tuple[float, float]) -> Question:
    """Asks whether a commit's interval has left that of the earlier end, `floor`; None while it may be at either
    end."""
    def question(verdict: Verdict) -> bool | None:
        span = interval(verdict)
        if span is None or (_overlap(span, floor) and _overlap(span, ceiling)):
            return None
        return not _overlap(span, floor)

    return question


def interval(verdict: Verdict) -> tuple[float, float] | None:
    """Gives the interval of the ratio to good; None where there is none, or only an empty one."""
    if verdict.word in ("invalid", *UNUSABLE) or verdict.low is None or verdict.high is None:
        return None
    return (verdict.low, verdict.high) if 0 < verdict.low <= verdict.high < math.inf else None


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


class _Measurements:
    """Knows what was measured of each commit, by position."""

    def __init__(self, commits: Sequence[str], measure: Measure) -> None:
        self.commits, self.measure = commits, measure
        self.verdicts: dict[int, Verdict] = {}
        self.unusable: set[int] = set()

    def ask(self, position: int, question: Question) -> bool | None:
        """Gives the answer of a commit's evidence, measured anew while it has none; None if it never gets one."""
        known = self.verdicts.get(position)
        answer = question(known) if known is not None else None
        for _ in range(ATTEMPTS):
            if answer is not None:
                break
            verdict = self.measure(self.commits[position - 1])
            if verdict is None or verdict.word in UNUSABLE:
                self.unusable.add(position)
                return None
            self.verdicts[position] = verdict
            answer = question(verdict)
        return answer

    def narrow(self, low: int, high: int, question: Question) -> Step:
        """Halves what lies between `low`, for which the answer is no, and `high`, for which it is yes."""
        aside: set[int] = set()
        misses = 0
        while left := [p for p in range(low + 1, high) if p not in self.unusable and p not in aside]:
            # Commits that fail come in runs: the next one asked lies 1, 1, 2, 2, 4, 4, ... to either side.
            target = (low + high) // 2 + ((1, -1)[misses % 2] * 2 ** ((misses - 1) // 2) if misses else 0)
            middle = min(left, key=lambda position: abs(position - target))
            answer = self.ask(middle, question)
            if answer is None:
                aside.add(middle)
                misses += 1
                continue
            low, high = (low, middle) if answer else (middle, high)
            misses = 0
        return Step(low, high)

    def span(self, position: int) -> tuple[float, float]:
        """Gives the interval of a commit's ratio to good; without one it may lie anywhere."""
        if position == 0:
            return 1.0, 1.0
        return interval(self.verdicts[position]) or (0.0, math.inf)

    def differ(self, left: int, right: int) -> bool:
        """Tells whether the two are certain to differ, and by a part of the whole change that matters."""
        ends = self.span(left), self.span(right), self.span(len(self.commits))
        if any(low <= 0 for low, _ in ends) or _overlap(ends[0], ends[1]) or ends[2][0] <= 1:
            return False
        before, after, whole = (math.log(low * high) / 2 for low, high in ends)
        return abs(after - before) >= SHARE * abs(whole)
