"""Changes for the worse that were looked at and taken: the entries of `accepted.toml`.

An entry holds for the benchmarks that its pattern matches, up to its last day, and for one commit: where bisection has
found another commit, it is another change. A wrong result is never accepted. A malformed or
expired entry is named in a line and accepts nothing; the others hold.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from perf.policy import check_pattern
from perf.system import files

FILE = Path(__file__).with_name("accepted.toml")
ANY = "any"
COMMIT = re.compile(r"[0-9a-f]{7,40}")
FIELDS = ("workload", "commit", "reason", "until")


@dataclass(frozen=True)
class Acceptance:
    """An entry holds up to the day `until`. Raises ValueError, in one line, for what makes no sense."""

    workload: str
    commit: str
    reason: str
    until: date

    def __post_init__(self) -> None:
        for name in ("workload", "commit", "reason"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip() or not value.isprintable():
                raise ValueError(f"{name} must be a line of text, not {value!r}")
        check_pattern(self.workload)
        if self.commit != ANY and not COMMIT.fullmatch(self.commit):
            raise ValueError(f"commit must be 7 to 40 digits of its hash, or {ANY!r}, not {self.commit!r}")
        if not isinstance(self.until, date) or isinstance(self.until, datetime):
            raise ValueError(f"until must be a date such as 2027-02-28, without quotes, not {self.until!r}")

    def holds(self, benchmark: str, since: str | None) -> bool:
        """Tells whether it holds for a benchmark that got slower in commit `since`; None where that is not known."""
        one = self.commit == ANY or since is None or since.startswith(self.commit) or self.commit.startswith(since)
        return one and fnmatchcase(benchmark, self.workload)

    def to_toml(self) -> str:
        quoted = (f'{name} = "{_escape(getattr(self, name))}"\n' for name in ("workload", "commit", "reason"))
        return f"\n[[accepted]]\n{''.join(quoted)}until = {self.until.isoformat()}\n"


def why_accepted(entries: Sequence[Acceptance], benchmark: str, since: str | None = None) -> str | None:
    """Gives the reason why a change of this benchmark is accepted, and until when; None if it is not."""
    return next((f"{entry.reason} (accepted until {entry.until.isoformat()})" for entry in entries
                 if entry.holds(benchmark, since)), None)


def read(text: str, today: date) -> tuple[list[Acceptance], list[str]]:
    """Reads the entries that hold today, and writes a line about each that does not. Raises nothing."""
    try:
        table = files.from_toml(text)
    except ValueError as error:
        return [], [f"accepted.toml: not TOML: {error}; nothing is accepted until it is repaired"]
    entries, problems = table.pop("accepted", []), [f"accepted.toml: unknown {name!r}; write [[accepted]] entries"
                                                    for name in table if name != "accepted"]
    if not isinstance(entries, list):
        return [], [*problems, "accepted.toml: write [[accepted]], in two brackets; nothing is accepted until then"]
    current = []
    for i, fields in enumerate(entries, 1):
        try:
            entry = _entry(fields)
        except ValueError as error:
            problems.append(f"accepted.toml: entry {i}: {error}; it accepts nothing")
            continue
        if entry.until < today:
            problems.append(f"accepted.toml: entry {i} ({entry.workload}) ended on {entry.until.isoformat()}; remove "
                            "it, or give it a later day")
        else:
            current.append(entry)
    return current, problems


def load(path: Path = FILE, today: date | None = None) -> tuple[list[Acceptance], list[str]]:
    """Does as `read` with a file; one that is not there accepts nothing."""
    try:
        return read(path.read_text(encoding="utf-8"), today or date.today())
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"accepted.toml: can't be read: {error}; nothing is accepted"]


def _entry(entry: Any) -> Acceptance:
    if not isinstance(entry, dict):
        raise ValueError("write [[accepted]], in two brackets")
    for name in FIELDS:
        if name not in entry:
            raise ValueError(f"{name} is missing; it takes {', '.join(FIELDS)}")
    if unknown := set(entry) - set(FIELDS):
        raise ValueError(f"unknown {min(unknown)!r}; it takes {', '.join(FIELDS)}")
    return Acceptance(**entry)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
