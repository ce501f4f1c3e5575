"""The one comment on a pull request, and the summary of a workflow's run: perf/tests/comment.golden.md fixes its text.

Pure. Whatever a record says is shown as text: a pull request's record comes from a job that ran its code.
"""
from __future__ import annotations

import re
from collections.abc import Iterator

from perf.alerts import markdown
from perf.alerts.issue import accepting, reasons
from perf.alerts.markdown import code
from perf.alerts.sets import Why, alarms, trouble
from perf.alerts.table import counts, mean, ordered, table
from perf.compare.record import Night
from perf.report.verdicts import ALARMS
from perf.verdict.words import many

MARKER = "<!-- attention-perf comment -->"
QUIET = ("skipped",)


def comment(night: Night, accepted: Why) -> str:
    """What the pull request is told, with the marker by which it is found again."""
    return f"{summary(night, accepted)}\n{MARKER}\n"


def summary(night: Night, accepted: Why) -> str:
    return "\n\n".join(part for part in _parts(night, accepted) if part) + "\n"


def verdict(night: Night, accepted: Why) -> str:
    """One sentence, the worst first."""
    found = alarms(night, accepted)
    wrong = sorted({f.benchmark for f in found if f.word == "wrong"})
    slower = sorted({f.benchmark for f in found} - set(wrong))
    words = [f.word for f in night.findings]
    taken = len({f.benchmark for f in night.findings if f.word == "regressed"} - set(slower) - set(wrong))
    also = f", {taken} accepted" if taken else ""
    if wrong or slower:
        said = [f"{many(len(wrong), 'benchmark')} wrong"] if wrong else []
        said += [f"{many(len(slower), 'benchmark')} regressed"] if slower else []
        return ", ".join(said) + also
    if not words:
        return "nothing was compared"
    undecided = sum(word in ("inconclusive", "invalid") for word in words)
    if undecided and not any(word in ("ok", "improved", "unchanged", *ALARMS) for word in words):
        return f"undecided: {counts(night.findings)}"
    return f"nothing{' else' if taken else ''} regressed{also}{f', {undecided} undecided' if undecided else ''}"


def _parts(night: Night, accepted: Why) -> Iterator[str]:
    yield f"### Performance: {verdict(night, accepted)}"
    yield (f"{code(_short(night.head))} against {code(_short(night.base))} on {code(night.hardware)}. "
           f"{counts(night.findings)}.")
    if said := mean(night.findings):
        yield f"All times: {said}."
    shown = [f for f in night.findings if f.word not in QUIET]
    yield table(shown)
    yield "\n".join(f"- {code(note)}" for note in night.notes)
    yield "\n".join(f"- accepted: {code(f.benchmark)}: {code(reason)}" for f in ordered(night.findings)
                    if f.word == "regressed" and (reason := accepted(f)))
    if about := trouble(night):
        yield f"This went unwatched:\n\n{reasons(about)}"
    if block := markdown.shown(night.command):
        yield f"To reproduce:\n\n{block}"
    if block := next((accepting(f, "any") for f in alarms(night, accepted) if f.word == "regressed"), None):
        yield f"To accept the first one, commit what this adds to perf/policy/accepted.toml:\n\n{block}"


def _short(revision: str) -> str:
    """Of a full hash its first eight digits, and whether there were changes; other names as they are."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b", r"\1", revision)
