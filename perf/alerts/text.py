"""Writes the texts that GitHub shows: of an issue, on a set of regressions or on a night's own trouble; of the comment
on a pull request, and of the summary of a workflow's run (perf/tests/comment.golden.md).

Pure. Whatever a record says is shown as text: a pull request's record comes from a job that ran its code.
"""
from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from perf.alerts import markdown
from perf.alerts.markdown import code, plain, sparkline
from perf.alerts.sets import Action, Set, Trouble, Why, alarms, trouble
from perf.alerts.table import counts, ordered, table
from perf.compare.record import ALARMS, Comparison, Finding, mean
from perf.policy.owners import Owners
from perf.report.units import change_in_percent
from perf.verdict.words import many

MARKER = "<!-- attention-perf comment -->"
NAMED = 12  # of one kind
TITLE = 250  # characters; GitHub takes 256
HISTORY = 30  # values of a sparkline
LABEL = "performance-regression"
MACHINE = ("gpus", "driver", "cuda", "torch", "triton", "flash-attn", "transformers", "cpu", "clocks_locked_mhz",
        "power_limit", "python")  # of the fingerprint


def comment(comparison: Comparison, accepted: Why) -> str:
    """Writes the comment, with the marker by which it is found again."""
    return f"{summary(comparison, accepted)}\n{MARKER}\n"


def summary(comparison: Comparison, accepted: Why) -> str:
    """Writes the comment without its marker."""
    return "\n\n".join(part for part in _parts(comparison, accepted) if part) + "\n"


def verdict(comparison: Comparison, accepted: Why) -> str:
    """Says in one sentence what the comparison found, the worst first."""
    worst = alarms(comparison, accepted)
    wrong = {f.benchmark for f in worst if f.word == "wrong"}
    slower = {f.benchmark for f in worst} - wrong
    words = [f.word for f in comparison.findings]
    count = len({f.benchmark for f in comparison.findings if f.word == "regressed"} - slower - wrong)
    also = f", {count} accepted" if count else ""
    if wrong or slower:
        parts = [f"{many(len(wrong), 'benchmark')} wrong"] if wrong else []
        parts += [f"{many(len(slower), 'benchmark')} regressed"] if slower else []
        return ", ".join(parts) + also
    if not words:
        return "nothing was compared"
    undecided = sum(word in ("inconclusive", "invalid") for word in words)
    if undecided and not any(word in ("ok", "improved", "unchanged", *ALARMS) for word in words):
        return f"undecided: {counts(comparison.findings)}"
    return f"nothing{' else' if count else ''} regressed{also}{f', {undecided} undecided' if undecided else ''}"


def _parts(comparison: Comparison, accepted: Why) -> Iterator[str]:
    yield f"### Performance: {verdict(comparison, accepted)}"
    yield (f"{code(_short(comparison.head))} against {code(_short(comparison.base))} on {code(comparison.hardware)}. "
           f"{counts(comparison.findings)}.")
    if ratios := [f.ratio for f in comparison.findings if f.figure == "time" and f.ratio]:
        yield f"All times: {mean(ratios)}."
    yield table(f for f in comparison.findings if f.word != "skipped")
    yield "\n".join(f"- {code(note)}" for note in comparison.notes)
    yield "\n".join(f"- accepted: {code(f.benchmark)}: {code(reason)}" for f in ordered(comparison.findings)
                    if f.word == "regressed" and (reason := accepted(f)))
    if about := trouble(comparison):
        yield f"This went unwatched:\n\n{reasons(about)}"
    if block := markdown.command_block(comparison.command):
        yield f"To reproduce:\n\n{block}"
    if block := next((acceptance(f, "any") for f in alarms(comparison, accepted) if f.word == "regressed"), None):
        yield f"To accept the first one, commit what this adds to perf/policy/accepted.toml:\n\n{block}"


def _short(revision: str) -> str:
    """Cuts a full hash to its first eight digits, and leaves other names as they are."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b", r"\1", revision)


def title(comparison: Comparison, about: Set | Trouble) -> str:
    """Writes the title, in one line of plain text."""
    return plain(_title(comparison, about), TITLE)


def _title(comparison: Comparison, about: Set | Trouble) -> str:
    if isinstance(about, Trouble):
        return f"Performance is not fully watched on {plain(comparison.hardware)}: {many(len(about.reasons), 'reason')}"
    worst = about.findings[0]
    rest = f" and {len(about.findings) - 1} more" if len(about.findings) > 1 else ""
    what = "Wrong results" if worst.word == "wrong" else _worse(worst)
    return f"{what}: {plain(worst.benchmark)}{rest} on {plain(comparison.hardware)}"


def _worse(f: Finding) -> str:
    if f.ratio is None or f.ratio <= 1:  # a counter rose
        return "Regressed"
    more = "slower" if f.figure == "time" else f"more {plain(f.figure)}"
    return f"{change_in_percent(f.ratio).removeprefix('+')} % {more}"


def body(comparison: Comparison, about: Set | Trouble, owners: Owners, accepted: Why) -> str:
    """Writes the body, with the marker by which the issue is found again."""
    parts = _trouble(comparison, about) if isinstance(about, Trouble) else _set(comparison, about, owners, accepted)
    return "\n\n".join([*(part for part in parts if part), str(about.marker(comparison.hardware))]) + "\n"


def closing(comparison: Comparison, action: Action) -> str:
    """Writes the comment that ends an issue."""
    parts = []
    if action.recovered:
        parts.append(f"Recovered: {_names(action.recovered)}.")
    if action.accepted:
        parts.append(f"Accepted in perf/policy/accepted.toml: {_names(action.accepted)}.")
    parts = parts or ["Nothing of this was seen again."]
    return "\n\n".join([*parts, f"{code(comparison.head)} on {code(comparison.hardware)}, {comparison.date}."]) + "\n"


def assignees(about: Set | Trouble, owners: Owners) -> list[str]:
    """Lists the logins of the owners of what regressed."""
    concerned = owners.all(f.benchmark for f in about.findings) if isinstance(about, Set) else []
    return list(dict.fromkeys(login for owner in concerned for login in owner.assignees))


def _set(comparison: Comparison, about: Set, owners: Owners, accepted: Why) -> Iterator[str]:
    wrong = sum(f.word == "wrong" for f in about.findings)
    counts = [f"{wrong} wrong"] if wrong else []
    counts += [f"{len(about.findings) - wrong} regressed"] if wrong < len(about.findings) else []
    yield f"**{', '.join(counts)}** {_place(comparison)}."
    worst = about.findings[0]
    if worst.since is None:
        yield f"Not bisected yet: a commit after {code(comparison.base)}, up to {code(comparison.head)}."
    else:
        yield f"Since {code(worst.since)} by {code(worst.author or '')}: {code(worst.subject or '')}"
    yield "\n".join(f"Owner: {' '.join([*([code(owner.owner)] if owner.owner else []), *owner.mention])}"
                    for owner in owners.all(f.benchmark for f in about.findings) if owner.owner or owner.mention)
    history = {"history": lambda f: code(sparkline([value for _, value in f.samples[-HISTORY:]]))}
    yield table(about.findings, history if any(f.samples for f in about.findings) else None)
    if certified := [f.certified for f in about.findings if f.certified is not None]:
        yield f"The smallest change that could be told from none: {100 * max(certified):.1f} % or less."
    if about.pending:
        yield f"Regressed before, undecided tonight: {_names(about.pending)}."
    yield "\n".join(_also(comparison, accepted))
    yield _again(comparison)
    slower = next((f for f in about.findings if f.word == "regressed"), None)
    if slower and (block := acceptance(slower, slower.since or "any")):
        yield f"To accept the first one, commit what this adds to perf/policy/accepted.toml:\n\n{block}"
    yield _machine(comparison)


def _trouble(comparison: Comparison, about: Trouble) -> Iterator[str]:
    yield f"{_place(comparison).capitalize()}, this went unwatched:"
    yield reasons(about)
    yield _again(comparison)
    yield _machine(comparison)


def _place(comparison: Comparison) -> str:
    return (f"on {code(comparison.hardware)}, {comparison.date}, {code(comparison.base)} to "
            f"{code(comparison.head)}")


def reasons(about: Trouble) -> str:
    """Writes a table of what went unwatched and why."""
    rows = markdown.table(("what", "why"), [(code(what), code(why)) for what, why in about.reasons[:NAMED]])
    more = len(about.reasons) - NAMED
    return f"{rows}\n\nand {more} more, in the record." if more > 0 else rows


def _also(comparison: Comparison, accepted: Why) -> Iterator[str]:
    """Yields what else there is to know of the comparison, a line for each kind."""
    findings = ordered(comparison.findings)
    kinds = [*((word.capitalize(), [f.benchmark for f in findings if f.word == word])
               for word in ("improved", "invalid", "missing")), ("Vanished", comparison.vanished),
             ("Not measured", [one.what for one in comparison.failed]),
             ("Accepted", [f.benchmark for f in comparison.findings if f.word in ALARMS and accepted(f)])]
    yield from (f"- {kind}: {_names(names)}" for kind, names in kinds if names)
    yield from (f"- {code(note)}" for note in comparison.notes)


def _names(names: Sequence[str]) -> str:
    different = list(Counter(names))
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return ", ".join(map(code, different[:NAMED])) + more


def _again(comparison: Comparison) -> str:
    block = markdown.command_block(comparison.command)
    return f"To measure it again:\n\n{block}" if block else ""


def acceptance(f: Finding, commit: str) -> str | None:
    """Writes the command that accepts a change, as a block to copy."""
    words = ["python", "-m", "perf", "accept", f.benchmark, "--commit", commit, "--reason", "REASON"]
    return markdown.command_block(shlex.join(words))


def _machine(comparison: Comparison) -> str:
    values = [(name, comparison.fingerprint.get(name)) for name in MACHINE]
    environment = [("environment", code(comparison.environment))] if comparison.environment else []
    rows = [("id", code(comparison.machine)), *environment,
            *((name, code(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
              for name, value in values if value not in (None, "", []))]
    return markdown.fold("The machine", markdown.table(("", ""), rows))
