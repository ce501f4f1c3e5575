"""Annotations and the job's summary, which a workflow of GitHub Actions shows by itself.

Annotations are commands on standard output, so text of others is escaped as the runner's own toolkit does:
https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perf.alerts.markdown import plain
from perf.alerts.sets import Why, alarms
from perf.alerts.table import ordered
from perf.compare.record import Comparison, Finding

MOST = 10  # of one kind: GitHub shows no more of a step
WARNINGS = ("invalid", "missing", "inconclusive")
LARGEST = 1024 * 1024  # bytes that a step's summary may have


def annotate(comparison: Comparison, accepted: Why) -> Iterator[str]:
    """Yields an error for each of the worst alarms, and a warning for each finding that could not be decided."""
    errors = alarms(comparison, accepted)[:MOST]
    warnings = [f for f in ordered(comparison.findings) if f.word in WARNINGS][:MOST]
    yield from (_command("error", f) for f in errors)
    yield from (_command("warning", f) for f in warnings)


def append(path: Path, text: str) -> None:
    """Appends to the summary of a job's step. Raises OSError."""
    encoded = text.encode()
    if len(encoded) > LARGEST:
        encoded = encoded[:LARGEST - 4].decode(errors="ignore").encode()
    with path.open("ab") as file:
        file.write(encoded)


def _command(kind: str, f: Finding) -> str:
    title, message = plain(f.benchmark), plain(f"{f.word}: {f.why}", 500)
    return f"::{kind} title={_escape(title).replace(':', '%3A').replace(',', '%2C')}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
