"""Decides which issues a comparison opens, updates and closes. Pure.

A *set* is what regressed since one commit, on one kind of machine; what is not bisected is one set. An open issue
carries its members in a hidden marker, so a set that shares a member with it is the same one, though it grew, shrank
or was bisected meanwhile. A member on which a night says nothing (invalid, inconclusive, not measured) stays in its
issue: only a verdict of `CLEAR` takes it out, and only if its figure is nearer to the good one of the night that
raised the alarm than to the bad one. So an issue stays open though later nights compare with a newer, slow commit.

A night's own trouble (steps that failed, commits without a measurement, benchmarks that vanished) is one more set.
"""
from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from perf.alerts.table import ordered
from perf.compare.record import ALARMS, Comparison, Finding
from perf.policy.accepted import Acceptance, why_accepted
from perf.system.tools import group_by

CLEAR = ("ok", "improved")
REGRESSIONS, TROUBLE = "regressions", "trouble"
MARKER = re.compile(r"<!-- attention-perf set: ([A-Za-z0-9+/=]+) -->")
LARGEST = 4_000_000  # bytes of a marker

Why = Callable[[Finding], str | None]


@dataclass(frozen=True)
class Marker:
    """Names the subject of an issue: its kind, the hardware, and the benchmark and figure of each member, with the
    value below which it is good again (None where no value is known)."""

    kind: str
    hardware: str
    members: Mapping[str, float | None] = field(default_factory=dict)

    def __str__(self) -> str:
        record = json.dumps([self.kind, self.hardware, self.members], sort_keys=True)
        packed = base64.b64encode(zlib.compress(record.encode(), 9)).decode()
        return f"<!-- attention-perf set: {packed} -->"

    @classmethod
    def read(cls, body: str) -> Marker | None:
        """Reads the marker of an issue's body; None if it has none that can be read."""
        if not (match := MARKER.search(body)):
            return None
        try:
            unpacked = zlib.decompressobj().decompress(base64.b64decode(match[1], validate=True), LARGEST)
            kind, hardware, members = json.loads(unpacked)
            return cls(str(kind), str(hardware), {
                name: None if limit is None else float(limit) for name, limit in members.items()})
        except (AttributeError, ValueError, TypeError, zlib.error):
            return None


@dataclass(frozen=True)
class Set:
    """Findings that regressed for one reason, the worst first; `pending` regressed before and are undecided now.
    `known` are the members of the issue that it has already."""

    findings: tuple[Finding, ...]
    pending: tuple[str, ...] = ()
    known: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def since(self) -> str | None:
        return self.findings[0].since

    def marker(self, hardware: str) -> Marker:
        """Makes the marker. A member's limit stays that of the alarm that made it one."""
        limits = {key(f): limit(f) for f in self.findings} | dict.fromkeys(self.pending)
        return Marker(REGRESSIONS, hardware, {name: self.known.get(name, value) for name, value in limits.items()})


@dataclass(frozen=True)
class Trouble:
    """Lists the obstacles that kept a night from watching everything: what, and why."""

    reasons: tuple[tuple[str, str], ...]

    def marker(self, hardware: str) -> Marker:
        return Marker(TROUBLE, hardware)


@dataclass(frozen=True)
class Action:
    """Orders to open an issue (without a number), to update one, or to close it (without what it is about).

    `recovered` and `accepted` are the members that are the reason for closing.
    """

    number: int | None
    about: Set | Trouble | None
    recovered: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def acceptance(entries: Sequence[Acceptance]) -> Why:
    """Returns the rule of these entries: why a finding is accepted, or None."""
    return lambda f: why_accepted(entries, f.benchmark, f.since)


def key(f: Finding) -> str:
    """Names a member: its benchmark and figure."""
    return f"{f.benchmark} {f.figure}"


def limit(f: Finding) -> float | None:
    """Returns the value half way between the good one and the bad one, to four digits."""
    if f.base is None or f.head is None or f.head <= f.base:
        return None
    return float(f"{f.base / 2 + f.head / 2:.4g}")


def alarms(comparison: Comparison, accepted: Why) -> list[Finding]:
    """Lists what regressed and is not accepted, the worst first. A wrong result can't be accepted."""
    return ordered(f for f in comparison.findings if f.word in ALARMS and (f.word == "wrong" or accepted(f) is None))


def trouble(comparison: Comparison) -> Trouble | None:
    """Gathers what went unwatched; None if nothing did."""
    steps = [(f"step {one.name}", one.reason or one.outcome) for one in comparison.steps if one.outcome == "failed"]
    failures = [(one.what, one.reason) for one in comparison.failed]
    vanished = [(name, "vanished: the history has it, tonight's revision does not") for name in comparison.vanished]
    reasons = (*steps, *failures, *vanished)
    return Trouble(reasons) if reasons else None


def plan(comparison: Comparison, issues: Mapping[int, Marker], accepted: Why) -> list[Action]:
    """Plans what becomes of the open `issues`, by number, and which ones to open."""
    here = {number: marker for number, marker in issues.items() if marker.hardware == comparison.hardware}
    regressions = {number: marker for number, marker in here.items() if marker.kind == REGRESSIONS}
    troubles = [number for number, marker in here.items() if marker.kind == TROUBLE]
    return [*_regressions(comparison, regressions, accepted), *_trouble(comparison, troubles)]


def _regressions(comparison: Comparison, issues: Mapping[int, Marker], accepted: Why) -> Iterator[Action]:
    worst = alarms(comparison, accepted)
    bad = frozenset(map(key, worst))
    good = {key(f): f.head for f in comparison.findings if f.word in CLEAR and key(f) not in bad}
    tolerable = frozenset(key(f) for f in comparison.findings if f.word in ALARMS) - bad
    free = dict(issues)
    groups = sorted(group_by(worst, lambda f: f.since).values(), key=len, reverse=True)
    for group in groups:  # the largest first: it takes its issue before a smaller one that overlaps with it
        members = frozenset(map(key, group))
        number = max(free, key=lambda number: len(free[number].members.keys() & members), default=None)
        if number is None or not free[number].members.keys() & members:
            yield Action(None, Set(tuple(group)))
            continue
        marker = free.pop(number)
        pending = marker.members.keys() - bad - _recoveries(marker, good) - tolerable
        yield Action(number, Set(tuple(group), tuple(sorted(pending)), marker.members))
    for number, marker in free.items():
        recoveries = _recoveries(marker, good)
        if not marker.members.keys() - bad - recoveries - tolerable:  # what is in another issue now keeps none open
            yield Action(number, None, tuple(sorted(recoveries)), tuple(sorted(marker.members.keys() & tolerable)))


def _recoveries(marker: Marker, good: Mapping[str, float | None]) -> set[str]:
    """Names the members whose figure is good, and below its limit where both are known."""
    return {name for name, most in marker.members.items()
            if name in good and (most is None or (value := good[name]) is None or value < most)}


def _trouble(comparison: Comparison, issues: Iterable[int]) -> Iterator[Action]:
    numbers = list(issues)
    if about := trouble(comparison):
        yield Action(numbers.pop(0) if numbers else None, about)
    for number in numbers:
        yield Action(number, None)
