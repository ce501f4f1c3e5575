"""Which issues a night opens, brings up to date and closes. Pure.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from perf.alerts.table import ordered
from perf.compare.record import Finding, Night
from perf.report.verdicts import ALARMS

CLEAR = ("ok", "improved")
REGRESSIONS, TROUBLE = "regressions", "trouble"
MARKER = re.compile(r"<!-- attention-perf set: ([A-Za-z0-9+/=]+) -->")
LARGEST = 4_000_000  # bytes of a marker

Why = Callable[[Finding], str | None]


@dataclass(frozen=True)
class Marker:
    """What an issue is about: its kind, the hardware, and the benchmark and figure of each member, with the value
    below which it is good again (None where no value is known)."""

    kind: str
    hardware: str
    members: Mapping[str, float | None] = field(default_factory=dict)

    def __str__(self) -> str:
        record = json.dumps([self.kind, self.hardware, self.members], sort_keys=True)
        packed = base64.b64encode(zlib.compress(record.encode(), 9)).decode()
        return f"<!-- attention-perf set: {packed} -->"

    @classmethod
    def read(cls, body: str) -> Marker | None:
        """The marker of an issue's body; None if it has none that can be read."""
        if not (found := MARKER.search(body)):
            return None
        try:
            unpacked = zlib.decompressobj().decompress(base64.b64decode(found[1], validate=True), LARGEST)
            kind, hardware, members = json.loads(unpacked)
            return cls(str(kind), str(hardware), {
                name: None if limit is None else float(limit) for name, limit in members.items()})
        except (AttributeError, ValueError, TypeError, zlib.error):
            return None


@dataclass(frozen=True)
class Set:
    """Findings that regressed for one reason, the worst first; `pending` regressed before and are undecided tonight.
    `known` are the members of the issue that it has already."""

    findings: tuple[Finding, ...]
    pending: tuple[str, ...] = ()
    known: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def since(self) -> str | None:
        return self.findings[0].since

    def marker(self, hardware: str) -> Marker:
        """What was good when the alarm was raised stays what is good."""
        found = {key(f): limit(f) for f in self.findings} | dict.fromkeys(self.pending)
        return Marker(REGRESSIONS, hardware, {name: self.known.get(name, value) for name, value in found.items()})


@dataclass(frozen=True)
class Trouble:
    """What kept a night from saying all it should: what, and why."""

    reasons: tuple[tuple[str, str], ...]

    def marker(self, hardware: str) -> Marker:
        return Marker(TROUBLE, hardware)


@dataclass(frozen=True)
class Action:
    """Open an issue (without a number), bring one up to date, or close it (without what it is about).

    `recovered` and `accepted` are the members that are the reason for closing.
    """

    number: int | None
    about: Set | Trouble | None
    recovered: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def key(f: Finding) -> str:
    return f"{f.benchmark} {f.figure}"


def limit(f: Finding) -> float | None:
    """Half way between the good value and the bad one, to four digits."""
    if f.base is None or f.head is None or f.head <= f.base:
        return None
    return float(f"{f.base / 2 + f.head / 2:.4g}")


def alarms(night: Night, accepted: Why) -> list[Finding]:
    """What regressed and is not accepted. A wrong result can't be."""
    return ordered(f for f in night.findings if f.word in ALARMS and (f.word == "wrong" or accepted(f) is None))


def trouble(night: Night) -> Trouble | None:
    steps = ((f"step {step.name}", step.reason or step.outcome) for step in night.steps if step.outcome == "failed")
    failed = ((one.what, one.reason) for one in night.failed)
    vanished = ((name, "vanished: the history has it, tonight's revision does not") for name in night.vanished)
    found = (*steps, *failed, *vanished)
    return Trouble(found) if found else None


def plan(night: Night, opened: Mapping[int, Marker], accepted: Why) -> list[Action]:
    """What to do with the issues that are open, by number, and which ones to open."""
    here = {number: marker for number, marker in opened.items() if marker.hardware == night.hardware}
    regressions = {number: marker for number, marker in here.items() if marker.kind == REGRESSIONS}
    troubles = [number for number, marker in here.items() if marker.kind == TROUBLE]
    return [*_regressions(night, regressions, accepted), *_trouble(night, troubles)]


def _regressions(night: Night, opened: Mapping[int, Marker], accepted: Why) -> Iterator[Action]:
    found = alarms(night, accepted)
    alarmed = frozenset(map(key, found))
    good = {key(f): f.head for f in night.findings if f.word in CLEAR and key(f) not in alarmed}
    taken = frozenset(key(f) for f in night.findings if f.word in ALARMS) - alarmed
    free = dict(opened)
    for group in _groups(found):
        members = frozenset(map(key, group))
        number = max(free, key=lambda number: len(free[number].members.keys() & members), default=None)
        if number is None or not free[number].members.keys() & members:
            yield Action(None, Set(tuple(group)))
            continue
        marker = free.pop(number)
        pending = marker.members.keys() - alarmed - _recovered(marker, good) - taken
        yield Action(number, Set(tuple(group), tuple(sorted(pending)), marker.members))
    for number, marker in free.items():
        recovered, silenced = _recovered(marker, good), marker.members.keys() & taken
        if not marker.members.keys() - alarmed - recovered - taken:  # what is in another issue now keeps none open
            yield Action(number, None, tuple(sorted(recovered)), tuple(sorted(silenced)))


def _recovered(marker: Marker, good: Mapping[str, float | None]) -> set[str]:
    """The members whose figure is told to be good, and is below its limit where both are known."""
    return {name for name, most in marker.members.items()
            if name in good and (most is None or (seen := good[name]) is None or seen < most)}


def _trouble(night: Night, opened: Iterable[int]) -> Iterator[Action]:
    numbers = list(opened)
    if about := trouble(night):
        yield Action(numbers.pop(0) if numbers else None, about)
    for number in numbers:
        yield Action(number, None)


def _groups(found: Iterable[Finding]) -> list[list[Finding]]:
    """By commit, the largest first: it finds its issue before a smaller one that overlaps with it could."""
    groups: dict[str | None, list[Finding]] = {}
    for f in found:
        groups.setdefault(f.since, []).append(f)
    return sorted(groups.values(), key=len, reverse=True)
