"""The text of an issue: of a set of regressions, or of a night's own trouble. Pure."""
from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from perf.alerts import markdown
from perf.alerts.markdown import code, plain, sparkline
from perf.alerts.sets import Action, Set, Trouble, Why
from perf.alerts.table import ordered, table
from perf.compare.record import Finding, Night
from perf.policy.owners import Owner, Owners
from perf.report.units import change_in_percent
from perf.report.verdicts import ALARMS
from perf.verdict.words import many

NAMED = 12  # of one kind
TITLE = 250  # characters; GitHub takes 256
HISTORY = 30  # values of a sparkline
LABEL = "performance-regression"
TOLD = ("gpus", "driver", "cuda", "torch", "triton", "flash-attn", "transformers", "cpu", "clocks_locked_mhz",
        "power_limit", "python")  # of the fingerprint


def title(night: Night, about: Set | Trouble) -> str:
    return plain(_title(night, about), TITLE)


def _title(night: Night, about: Set | Trouble) -> str:
    if isinstance(about, Trouble):
        return f"Performance is not fully watched on {plain(night.hardware)}: {many(len(about.reasons), 'reason')}"
    worst = about.findings[0]
    rest = f" and {len(about.findings) - 1} more" if len(about.findings) > 1 else ""
    what = "Wrong results" if worst.word == "wrong" else _worse(worst)
    return f"{what}: {plain(worst.benchmark)}{rest} on {plain(night.hardware)}"


def _worse(f: Finding) -> str:
    if f.ratio is None or f.ratio <= 1:  # a counter rose
        return "Regressed"
    more = "slower" if f.figure == "time" else f"more {plain(f.figure)}"
    return f"{change_in_percent(f.ratio).removeprefix('+')} % {more}"


def body(night: Night, about: Set | Trouble, owners: Owners, accepted: Why) -> str:
    """All of it, with the marker by which the issue is found again."""
    parts = _trouble(night, about) if isinstance(about, Trouble) else _set(night, about, owners, accepted)
    return "\n\n".join([*(part for part in parts if part), str(about.marker(night.hardware))]) + "\n"


def closing(night: Night, action: Action) -> str:
    """The comment that ends an issue."""
    said = []
    if action.recovered:
        said.append(f"Recovered: {_names(action.recovered)}.")
    if action.accepted:
        said.append(f"Accepted in perf/policy/accepted.toml: {_names(action.accepted)}.")
    said = said or ["Nothing of this was seen again."]
    return "\n\n".join([*said, f"{code(night.head)} on {code(night.hardware)}, {night.date}."]) + "\n"


def assignees(about: Set | Trouble, owners: Owners) -> list[str]:
    found = owners.all(f.benchmark for f in about.findings) if isinstance(about, Set) else []
    return list(dict.fromkeys(login for owner in found for login in owner.assignees))


def _set(night: Night, about: Set, owners: Owners, accepted: Why) -> Iterator[str]:
    wrong = sum(f.word == "wrong" for f in about.findings)
    said = [f"{wrong} wrong"] if wrong else []
    said += [f"{len(about.findings) - wrong} regressed"] if wrong < len(about.findings) else []
    yield f"**{', '.join(said)}** on {code(night.hardware)}, {night.date}, {code(night.base)} to {code(night.head)}."
    yield _since(about.findings[0], night)
    yield "\n".join(_owners(owners.all(f.benchmark for f in about.findings)))
    yield table(about.findings, {"history": _history} if any(f.samples for f in about.findings) else None)
    if certified := [f.certified for f in about.findings if f.certified is not None]:
        yield f"The smallest change that could be told from none: {100 * max(certified):.1f} % or less."
    if about.pending:
        yield f"Regressed before, undecided tonight: {_names(about.pending)}."
    yield "\n".join(_also(night, accepted))
    yield _again(night)
    worst = next((f for f in about.findings if f.word == "regressed"), None)
    if worst and (block := accepting(worst, worst.since or "any")):
        yield f"To accept the first one, commit what this adds to perf/policy/accepted.toml:\n\n{block}"
    yield _machine(night)


def _trouble(night: Night, about: Trouble) -> Iterator[str]:
    yield f"On {code(night.hardware)}, {night.date}, {code(night.base)} to {code(night.head)}, this went unwatched:"
    yield reasons(about)
    yield _again(night)
    yield _machine(night)


def reasons(about: Trouble) -> str:
    """What went unwatched and why, as a table."""
    said = markdown.table(("what", "why"), [(code(what), code(why)) for what, why in about.reasons[:NAMED]])
    more = len(about.reasons) - NAMED
    return f"{said}\n\nand {more} more, in the record." if more > 0 else said


def _since(f: Finding, night: Night) -> str:
    if f.since is None:
        return f"Not bisected yet: a commit after {code(night.base)}, up to {code(night.head)}."
    return f"Since {code(f.since)} by {code(f.author or '')}: {code(f.subject or '')}"


def _owners(owners: Iterable[Owner]) -> Iterator[str]:
    for owner in owners:
        if owner.owner or owner.mention:
            yield f"Owner: {' '.join([*([code(owner.owner)] if owner.owner else []), *owner.mention])}"


def _history(f: Finding) -> str:
    return code(sparkline([value for _, value in f.samples[-HISTORY:]]))


def _also(night: Night, accepted: Why) -> Iterator[str]:
    """What else there is to know of this night, a line a kind."""
    by_word: dict[str, list[str]] = {}
    for f in ordered(night.findings):
        by_word.setdefault(f.word, []).append(f.benchmark)
    kinds = [("Improved", by_word.get("improved", [])), ("Invalid", by_word.get("invalid", [])),
             ("Missing", by_word.get("missing", [])), ("Vanished", night.vanished),
             ("Not measured", [one.what for one in night.failed]),
             ("Accepted", [f.benchmark for f in night.findings if f.word in ALARMS and accepted(f)])]
    yield from (f"- {kind}: {_names(names)}" for kind, names in kinds if names)
    yield from (f"- {code(note)}" for note in night.notes)


def _names(names: Sequence[str]) -> str:
    counted = Counter(names)
    said = ", ".join(map(code, list(counted)[:NAMED]))
    return said + (f" and {len(counted) - NAMED} more" if len(counted) > NAMED else "")


def _again(night: Night) -> str:
    block = markdown.shown(night.command)
    return f"To measure it again:\n\n{block}" if block else ""


def accepting(f: Finding, commit: str) -> str | None:
    """The command that accepts a change, as a block to copy."""
    words = ["python", "-m", "perf", "accept", f.benchmark, "--commit", commit, "--reason", "REASON"]
    return markdown.shown(shlex.join(words))


def _machine(night: Night) -> str:
    told = [(name, night.fingerprint.get(name)) for name in TOLD]
    rows = [("id", code(night.machine)), *([("environment", code(night.environment))] if night.environment else []),
            *((name, code(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
              for name, value in told if value not in (None, "", []))]
    return markdown.folded("The machine", markdown.table(("", ""), rows))
