"""Bisection by live pairs: which commits, or releases, after a good one made a benchmark slower.

    line = commits("v1", "main", root)                # or releases("torchao", "0.14", "0.18", root)
    code = bisect(line, comparing(workload, device), seconds)

Every one is compared with the good end; each one found, with the one before it.
"""
from __future__ import annotations

import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from packaging.version import InvalidVersion, Version

from perf.compare import pairs
from perf.compare.checkout import checkout, resolve, working_tree
from perf.compare.environments import inside, pip, run, with_versions
from perf.compare.project import project
from perf.compare.side import ROOT, Side
from perf.system import exit_codes, git
from perf.verdict.search import UNUSABLE, Outcome, Step, interval, search
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

WIDTH = 120
SECONDS = {"cpu": 90.0, "cuda": 60.0}  # of one comparison; twice that when it is made again

Compare = Callable[[Side, Side, float], Verdict]  # base, head, seconds


@dataclass(frozen=True)
class Line:
    """Holds what is bisected: `names` after `good`, the oldest first. `what` says what they are, `side` gives the side
    of one of them (ValueError: it can't be measured), `described` names it for a reader, `short` does so briefly."""

    good: str
    names: Sequence[str]
    what: str
    side: Callable[[str], AbstractContextManager[Side]]
    described: Callable[[str], str]
    short: Callable[[str], str] = str


def commits(good: str, bad: str, root: Path = ROOT) -> Line:
    """Lists the commits after `good` up to `bad` that touch what is measured. Raises as `between`."""
    return line_of(resolve(root, good), between(root, good, bad), root)


def line_of(good: str, names: Sequence[str], root: Path) -> Line:
    """Makes a line of these commits."""
    return Line(good, names, f"commits that touch {project(root).touched}", lambda name: checkout(name, root),
                lambda name: described(root, name), lambda name: name[:8])


def between(root: Path, good: str, bad: str) -> list[str]:
    """Lists the commits after `good` up to `bad`, oldest first, that touch the measured packages; of a merge its first
    side. Nothing else comes from a revision, so nothing else can change a time. Raises ValueError, in one line."""
    first, last, this = resolve(root, good), resolve(root, bad), project(root)
    if git.run(root, "merge-base", "--is-ancestor", first, last).returncode:
        raise ValueError(f"{good} is no ancestor of {bad}; give a good revision that {bad} was built on")
    names = git.commits(root, f"{first}..{last}", *this.paths)
    if not names:
        raise ValueError(f"no commit of {good}..{bad} touches {this.touched}, and nothing else is measured")
    return names


def comparing(w: Workload, device: torch.device) -> Compare:
    """Compares two sides by live pairs."""
    def compare(base: Side, head: Side, seconds: float) -> Verdict:
        [(_, verdict)] = pairs.comparing(device)([w], base, head, seconds)
        return verdict

    return compare


@dataclass
class Measuring:
    """Measures a line's names against its good end, and prints what each of them said."""

    line: Line
    base: Side
    compare: Compare
    seconds: float
    times: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)  # why one could not be measured

    def __call__(self, name: str) -> Verdict | None:
        self.times[name] += 1
        started = time.monotonic()
        verdict = None
        try:
            with self.line.side(name) as head:
                verdict = self.compare(self.base, head, self.seconds * 2 ** (self.times[name] - 1))
            message = f"{verdict.word}: {verdict.why}"
            if verdict.word in UNUSABLE:
                message, self.reasons[name] = f"skipped, {message}", verdict.why
        except ValueError as error:  # it has no attention/, can't be imported or installed
            self.reasons[name] = str(error)
            message = f"skipped: {error}"
        again = f", measured again ({self.times[name]})" if self.times[name] > 1 else ""
        names = self.line.names
        print(f"{self.line.described(name)}, {names.index(name) + 1} of {len(names)}{again}\n"
              f"{_indented(f'{message} ({time.monotonic() - started:.0f} s)')}", flush=True)
        return verdict


def bisect(line: Line, compare: Compare, seconds: float) -> int:
    """Gives the exit code; prints the evidence. Raises ValueError where either end can't be measured."""
    count = len(line.names)
    print(f"{count} {line.what}: {1 + math.ceil(math.log2(count))} comparisons with {line.described(line.good)} "
          "if each is clear", flush=True)
    with line.side(line.good) as base:
        if base.missing:
            raise ValueError(f"{line.short(line.good)}, the good end, can't be measured: {base.missing}")
        measuring = Measuring(line, base, compare, seconds)
        outcome = search(line.names, measuring)
        if count in outcome.unusable:
            last = line.names[-1]
            raise ValueError(f"{line.short(last)}, the bad end, can't be compared: {measuring.reasons[last]}")
        assert outcome.end is not None
        if not outcome.steps:
            return _nothing(outcome.end)
        confirmed = [_shown(step, outcome, measuring) for step in outcome.steps]
    print(f"{len(outcome.verdicts)} measured, {measuring.times.total() - len(measuring.times)} re-measurements, "
          f"{len(outcome.unusable)} skipped")
    return exit_codes.OK if all(confirmed) else exit_codes.UNDECIDED


def _indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="      ")


def described(root: Path, commit: str) -> str:
    """Writes eight digits, and the first line of what the commit says of itself."""
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


def _shown(step: Step, outcome: Outcome, measuring: Measuring) -> bool:
    """Prints a step, compared with what stands before it; tells whether that shows a difference."""
    line = measuring.line
    names = [line.good, *line.names]
    before, after = names[step.before], names[step.after]
    verdict = outcome.verdicts[step.after] if step.before == 0 else _direct(before, after, measuring)
    shown = differs(verdict)
    slower = verdict.word == "regressed" or (verdict.word != "improved" and (verdict.ratio or 1) > 1)
    what = "got slower" if slower else "got faster"
    print(f"{what if shown else 'unconfirmed'}: {line.described(after)}\n"
          f"{_indented(f'against {line.described(before)}: {verdict.word}: {verdict.why}')}")
    if step.after - step.before > 1:
        others = " ".join(map(line.short, names[step.before + 1:step.after]))
        print(_indented(f"or one of these, which gave no answer: {others}"))
    return shown


def _direct(before: str, after: str, measuring: Measuring) -> Verdict:
    """Compares two neighbours with one another; once more, for longer, if that says nothing."""
    with measuring.line.side(before) as base, measuring.line.side(after) as head:
        verdict = measuring.compare(base, head, measuring.seconds)
        return verdict if differs(verdict) else measuring.compare(base, head, 2 * measuring.seconds)


def differs(verdict: Verdict) -> bool:
    """Tells whether time or counters say so; a part of a regression need not be one by itself."""
    span = interval(verdict)
    return verdict.word in ("regressed", "improved") or (span is not None and not span[0] <= 1 <= span[1])


def releases(package: str, good: str, bad: str, root: Path, *, pre: bool = False) -> Line:
    """Lists the releases after `good` up to `bad` that the index offers; with `pre`, pre-releases too.

    Raises ValueError, in one line, for a package or release that the index doesn't have.
    """
    offered = sorted(map(Version, _offered(package, root, pre=pre)))
    first, last = (_chosen(package, name, offered) for name in (good, bad))
    names = [str(one) for one in offered if first < one <= last]
    if not names:
        raise ValueError(f"{package} {bad} is no later than {good}; give an older --good")

    @contextmanager
    def side(name: str) -> Iterator[Side]:
        environment = with_versions([f"{package}=={name}"], root)
        with working_tree(root) as tree:
            yield inside(tree, environment)

    return Line(str(first), names, f"releases of {package}", side, lambda name: f"{package} {name}")


def _offered(package: str, root: Path, *, pre: bool) -> list[str]:
    """Asks the index."""
    words = [*pip(with_versions([], root).python), "index", "versions", package, *(["--pre"] if pre else [])]
    failed = f"pip finds no releases of {package}"
    for line in run(words, failed).splitlines():
        if line.startswith("Available versions:"):
            return [name.strip() for name in line.partition(":")[2].split(",")]
    raise ValueError(f"{failed}: no reason given")


def _chosen(package: str, name: str, offered: Sequence[Version]) -> Version:
    try:
        return next(one for one in offered if one == Version(name))
    except (StopIteration, InvalidVersion):
        newest = ", ".join(map(str, offered[-5:]))
        raise ValueError(f"the index offers no {package} {name}; the newest are {newest}") from None
