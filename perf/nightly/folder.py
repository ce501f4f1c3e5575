"""A night's folder: which night it is, and what became of its steps.

    .perf/nightly/2026-11-25/night.json       when it began, of which commit, machine and options: its key
                            /steps/NAME.json  the result of a step that ended
                            /NAME.log         what the step printed
                            /evidence.jsonl, compared.jsonl, bisected.jsonl, alerts/

Everything in it is written at once or line by line, so a killed night loses nothing of what it measured.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.compare.record import Step
from perf.system import files

SCHEMA = 1
RESUMED = 20 * 3600.0  # seconds after its begin that a night is taken up again; later it is another night


@dataclass(frozen=True)
class Done(Step):
    """What became of a step; `unfit`: it failed because the machine did."""

    unfit: bool = False

    @property
    def told(self) -> Step:
        """As a night's record has it."""
        return Step(self.name, self.outcome, self.reason, self.seconds)


@dataclass(frozen=True)
class Folder:
    """`began` in seconds since 1970."""

    path: Path
    began: float

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def done(self, name: str) -> Done | None:
        """The result of a step; None if it has none that can be read: then it runs again."""
        try:
            return Done(**json.loads((self.path / "steps" / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, done: Done) -> None:
        write(self.path / "steps" / f"{done.name}.json", asdict(done))


def take(nights: Path, key: Mapping[str, Any], steps: Iterable[str], now: float, *, fresh: bool = False) -> Folder:
    """The folder of the night that was begun last, if it is this one (`key`) and not finished; else a new one.

    `steps` are those of a whole night. `fresh` asks for a new one.
    """
    names = tuple(steps)
    if not fresh and (found := _newest(nights)) and found[1] == json.loads(json.dumps(key)):
        folder = found[0]
        if 0 <= now - folder.began < RESUMED and not all(map(_ended, map(folder.done, names))):
            return folder
    folder = Folder(_unused(nights, datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")), now)
    write(folder.path / "night.json", {"schema": SCHEMA, "began": now, "key": key})
    return folder


def write(path: Path, content: Any) -> None:
    """JSON, all of it or nothing."""
    files.write(path, json.dumps(content, indent=1) + "\n")


def append(path: Path, content: Mapping[str, Any]) -> None:
    """One line of JSON; half a line that a killed process left does not swallow it."""
    whole = not path.exists() or path.read_bytes()[-1:] in (b"\n", b"")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(content) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What `append` wrote; a broken line is left out: what it told of is measured again."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _newest(nights: Path) -> tuple[Folder, Any] | None:
    found = []
    for path in nights.glob("*/night.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["schema"] == SCHEMA:
                found.append((Folder(path.parent, float(record["began"])), record["key"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return max(found, key=lambda one: one[0].began, default=None)


def _ended(done: Done | None) -> bool:
    return done is not None and done.outcome != "failed"


def _unused(nights: Path, date: str) -> Path:
    number = 1
    while (path := nights / (date if number == 1 else f"{date}-{number}")).exists():
        number += 1
    return path
