"""Writes the comment on a pull request, and the summary of a workflow's run (perf/tests/comment.golden.md).

Pure. Whatever a record says is shown as text: a pull request's record comes from a job that ran its code.
"""
from __future__ import annotations

import re
from collections.abc import Iterator

from perf.alerts import markdown
from perf.alerts.issue import acceptance, reasons
from perf.alerts.markdown import code
from perf.alerts.sets import Why, alarms, trouble
from perf.alerts.table import counts, mean, ordered, table
from perf.compare.record import ALARMS, Comparison
from perf.verdict.words import many

MARKER = "<!-- attention-perf comment -->"
QUIET = ("skipped",)


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
    if times := mean(comparison.findings):
        yield f"All times: {times}."
    yield table(f for f in comparison.findings if f.word not in QUIET)
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
