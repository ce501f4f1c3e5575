"""What a workflow of GitHub Actions shows by itself: annotations and the job's summary.

Annotations are commands on standard output, so text of others is escaped as the runner's own toolkit does:
https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perf.alerts.markdown import plain
from perf.alerts.sets import Why, alarms
from perf.alerts.table import ordered
from perf.compare.record import Finding, Night

MOST = 10  # of one kind: GitHub shows no more of a step
WARNED = ("invalid", "missing", "inconclusive")
LARGEST = 1024 * 1024  # bytes that a step's summary may have


def annotated(night: Night, accepted: Why) -> Iterator[str]:
    """An error for each of the worst alarms, a warning for what could not be decided."""
    errors = alarms(night, accepted)[:MOST]
    warnings = [f for f in ordered(night.findings) if f.word in WARNED][:MOST]
    yield from (_command("error", f) for f in errors)
    yield from (_command("warning", f) for f in warnings)


def append(path: Path, text: str) -> None:
    """To the summary of a job's step. Raises OSError."""
    encoded = text.encode()
    if len(encoded) > LARGEST:
        encoded = encoded[:LARGEST - 4].decode(errors="ignore").encode()
    with path.open("ab") as file:
        file.write(encoded)


def _command(kind: str, f: Finding) -> str:
    title, message = plain(f.benchmark), plain(f"{f.word}: {f.why}", 500)
    return f"::{kind} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
