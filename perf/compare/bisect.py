"""Bisection by live pairs: which commits after a good one made a benchmark slower.

    commits = between(root, "v1", "main")
    code = bisect(commits, good, comparing(workload, device), seconds)

Every commit is compared with `good`; each one found, with its own parent.
"""
from __future__ import annotations

import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from perf.compare import live
from perf.compare.checkout import PACKAGES, ROOT, checkout, resolve
from perf.system import exit_codes, git
from perf.verdict.search import UNUSABLE, Found, Step, interval, search
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

WIDTH = 120
SECONDS = {"cpu": 90.0, "cuda": 60.0}  # of one comparison; twice that when it is made again

Compare = Callable[[Path, Path, float], Verdict]  # base folder, head folder, seconds


def between(root: Path, good: str, bad: str) -> list[str]:
    """The commits after `good` up to `bad`, oldest first, that touch attention/ or models/; of a merge its first side.

    Nothing else comes from a revision, so nothing else can change a time. Raises ValueError, in one line.
    """
    first, last = resolve(root, good), resolve(root, bad)
    if git.run(root, "merge-base", "--is-ancestor", first, last).returncode:
        raise ValueError(f"{good} is no ancestor of {bad}; give a good revision that {bad} was built on")
    commits = git.commits(root, f"{first}..{last}", *PACKAGES)
    if not commits:
        raise ValueError(f"no commit of {good}..{bad} touches attention/ or models/, and nothing else is measured")
    return commits


def comparing(w: Workload, device: torch.device) -> Compare:
    """Compares two folders by live pairs."""
    def compare(base: Path, head: Path, seconds: float) -> Verdict:
        [(_, verdict)] = live.comparing(device)([w], base, head, seconds)
        return verdict

    return compare


@dataclass
class Measuring:
    """Measures commits against `good`, and prints what each of them said."""

    commits: Sequence[str]
    base: Path
    compare: Compare
    seconds: float
    root: Path = ROOT
    times: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)  # why a commit could not be measured

    def __call__(self, commit: str) -> Verdict | None:
        self.times[commit] += 1
        started = time.monotonic()
        verdict = None
        try:
            with checkout(commit, self.root) as head:
                verdict = self.compare(self.base, head, self.seconds * 2 ** (self.times[commit] - 1))
            said = f"{verdict.word}: {verdict.why}"
            if verdict.word in UNUSABLE:
                said, self.reasons[commit] = f"skipped, {said}", verdict.why
        except ValueError as error:  # it has no attention/, or can't be imported
            self.reasons[commit] = str(error)
            said = f"skipped: {error}"
        again = f", measured again ({self.times[commit]})" if self.times[commit] > 1 else ""
        print(f"{described(self.root, commit)}, {self.commits.index(commit) + 1} of {len(self.commits)}{again}\n"
              f"{_indented(f'{said} ({time.monotonic() - started:.0f} s)')}", flush=True)
        return verdict


def bisect(commits: Sequence[str], good: str, compare: Compare, seconds: float, root: Path = ROOT) -> int:
    """The exit code; prints the evidence. Raises ValueError where the bad end can't be measured."""
    print(f"{len(commits)} commits that touch attention/ or models/: {_measurements(len(commits))} comparisons with "
          f"{described(root, good)} if each is clear", flush=True)
    with checkout(good, root) as base:
        measuring = Measuring(commits, base, compare, seconds, root)
        found = search(commits, measuring)
        if len(commits) in found.unusable:
            raise ValueError(f"{commits[-1][:8]}, the bad end, can't be compared: {measuring.reasons[commits[-1]]}")
        assert found.end is not None
        if not found.steps:
            return _nothing(found.end)
        confirmed = [_told(step, [good, *commits], found, measuring) for step in found.steps]
    print(f"{len(found.verdicts)} commits measured, {measuring.times.total() - len(measuring.times)} re-measurements, "
          f"{len(found.unusable)} skipped")
    return exit_codes.OK if all(confirmed) else exit_codes.UNDECIDED


def _indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="      ")


def _measurements(count: int) -> int:
    return 1 + math.ceil(math.log2(count))


def described(root: Path, commit: str) -> str:
    """Eight digits, and the first line of what the commit says of itself."""
    _, subject = git.author_and_subject(root, commit)
    return f"{commit[:8]} {subject[:60]}".strip()


def _nothing(end: Verdict) -> int:
    if end.word == "invalid":
        print(f"undecided, the machine is unfit: {end.why}")
        return exit_codes.UNFIT
    if end.word == "inconclusive":
        print(f"undecided between the two ends: {end.why}; give more --seconds")
        return exit_codes.UNDECIDED
    print(f"no regression between the two ends: {end.word}, {end.why}")
    return exit_codes.FAILED


def _told(step: Step, commits: Sequence[str], found: Found, measuring: Measuring) -> bool:
    """Prints a step, compared with what stands before it; whether that shows a difference."""
    before, after = commits[step.before], commits[step.after]
    verdict = found.verdicts[step.after] if step.before == 0 else _direct(before, after, measuring)
    shown = differs(verdict)
    slower = verdict.word == "regressed" or (verdict.word != "improved" and (verdict.ratio or 1) > 1)
    what = "got slower" if slower else "got faster"
    print(f"{what if shown else 'unconfirmed'}: {described(measuring.root, after)}\n"
          f"{_indented(f'against {described(measuring.root, before)}: {verdict.word}: {verdict.why}')}")
    if step.after - step.before > 1:
        others = " ".join(commit[:8] for commit in commits[step.before + 1:step.after])
        print(_indented(f"or one of these, which gave no answer: {others}"))
    return shown


def _direct(before: str, after: str, measuring: Measuring) -> Verdict:
    """Two commits against one another; once more, for longer, if that says nothing."""
    with checkout(before, measuring.root) as base, checkout(after, measuring.root) as head:
        verdict = measuring.compare(base, head, measuring.seconds)
        return verdict if differs(verdict) else measuring.compare(base, head, 2 * measuring.seconds)


def differs(verdict: Verdict) -> bool:
    """Whether time or counters say so; a part of a regression need not be one by itself."""
    span = interval(verdict)
    return verdict.word in ("regressed", "improved") or (span is not None and not span[0] <= 1 <= span[1])
