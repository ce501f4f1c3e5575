"""Names the owners of a benchmark by the patterns of `owners.toml`; later ones override earlier ones."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from perf.policy import check_pattern
from perf.system import files

FILE = Path(__file__).with_name("owners.toml")
LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})")
MENTION = re.compile(rf"@{LOGIN.pattern}(?:/[A-Za-z0-9._-]{{1,100}})?")
FIELDS = ("owner", "assignees", "mention")


@dataclass(frozen=True)
class Owner:
    """`owner` is a name to read; `assignees` are GitHub logins, `mention` logins or teams with their "@"."""

    owner: str = ""
    assignees: tuple[str, ...] = ()
    mention: tuple[str, ...] = ()


@dataclass(frozen=True)
class Owners:
    """Holds the patterns and their fields, in the file's order."""

    patterns: Sequence[tuple[str, dict[str, Any]]] = field(default_factory=tuple)

    def of(self, benchmark: str) -> Owner:
        """Returns the owner of a benchmark, whose fields are those of all patterns that match."""
        fields: dict[str, Any] = {}
        for pattern, more in self.patterns:
            if fnmatchcase(benchmark, pattern):
                fields |= more
        return Owner(**fields)

    def all(self, benchmarks: Iterable[str]) -> list[Owner]:
        """Lists the owners of several benchmarks, each once."""
        return list(dict.fromkeys(self.of(benchmark) for benchmark in benchmarks))


def read(text: str) -> tuple[Owners, list[str]]:
    """Reads the owners, and writes a line about each pattern that is left aside. Raises nothing: an alert goes out
    regardless."""
    try:
        table = files.from_toml(text)
    except ValueError as error:
        return Owners(), [f"owners.toml: not TOML: {error}; nobody is named until it is repaired"]
    patterns, problems = [], []
    for pattern, fields in table.items():
        try:
            check_pattern(pattern)
            patterns.append((pattern, _fields(fields)))
        except ValueError as error:
            problems.append(f'owners.toml: ["{pattern:.60}"]: {error}; this pattern is left aside')
    return Owners(patterns), problems


def load(path: Path = FILE) -> tuple[Owners, list[str]]:
    """Does as `read` with a file; without one nobody is named."""
    try:
        return read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Owners(), []
    except (OSError, UnicodeDecodeError) as error:
        return Owners(), [f"owners.toml: can't be read: {error}; nobody is named"]


def _fields(table: Any) -> dict[str, Any]:
    """Returns the fields of a pattern. Raises ValueError for what makes no sense."""
    if not isinstance(table, dict):
        raise ValueError('write it as a table below a pattern such as ["softmax:*"]')
    if unknown := set(table) - set(FIELDS):
        raise ValueError(f"unknown {min(unknown)!r}; it takes {', '.join(FIELDS)}")
    owner = table.get("owner", "")
    if not isinstance(owner, str) or not owner.isprintable():
        raise ValueError(f"owner must be a line of text, not {owner!r}")
    lists = {"assignees": (LOGIN, "ada"), "mention": (MENTION, "@example/kernels")}
    return table | {name: _list(name, table[name], *form) for name, form in lists.items() if name in table}


def _list(name: str, value: Any, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and form.fullmatch(word) for word in words):
        raise ValueError(f'{name} must be a list such as ["{example}"], not {value!r}')
    return tuple(words)
