"""A mark beside the evidence names the row in flight, so that a row which ends the process is not tried for ever.

A call that crashes or leaves (a segmentation fault, os._exit, the kernel's lack of memory) takes the process along, and
the mark stays. --perf-resume goes on with that row once more, for a kill from outside leaves the mark as well; when the
process ended in one row twice, the row is recorded as failed, and not tried again at that commit.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.measure import machine
from perf.measure.evidence import Evidence
from perf.system import files

TRIES = 2
ENDED = (f"ended the process {TRIES} times: a crash, os._exit, or a lack of memory that the kernel ended; "
         "--perf-resume tries it no more at this commit")


class Flight:
    """Holds the mark of an evidence file. `fatal` is the id of the row that ended the process too often, if one did."""

    def __init__(self, evidence: Path) -> None:
        self.path = mark(evidence)
        self._row, self._tries = self._read()

    @property
    def fatal(self) -> str | None:
        return self._row if self._tries >= TRIES else None

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Marks the row while it is measured."""
        tries = 1 + (self._tries if name == self._row else 0)
        files.write(self.path, json.dumps([name, machine.identity(), machine.revision(), tries]))
        try:
            yield
        finally:
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[str | None, int]:
        """Reads what the last run left: a row of this machine and commit, and how often it ended the process."""
        try:
            name, where, revision, tries = files.from_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None, 0
        same = [where, revision] == [machine.identity(), machine.revision()]
        return (str(name), tries) if same and isinstance(tries, int) else (None, 0)


def mark(evidence: Path) -> Path:
    """Names the file of the mark."""
    return evidence.with_name(f"{evidence.name}.row")


def ended(row: Evidence) -> bool:
    """Tells whether a row was recorded for that reason."""
    return row.outcome == "failed" and row.reason == ENDED
