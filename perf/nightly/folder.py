"""A night's folder: its key, and the results of its steps.

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
COMPARED, BISECTED = "compared.jsonl", "bisected.jsonl"  # a line for each benchmark
RESUMED = 20 * 3600.0  # seconds after its begin that a night is taken up again; later it is another night


@dataclass(frozen=True)
class Result(Step):
    """Is the result of a step; `unfit` says that it failed because of the machine."""

    unfit: bool = False

    @property
    def step(self) -> Step:
        """Returns the part of it that a night's record has."""
        return Step(self.name, self.outcome, self.reason, self.seconds)


@dataclass(frozen=True)
class Folder:
    """Is the folder of a night that began at `start`, in seconds since 1970."""

    path: Path
    start: float

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def result(self, name: str) -> Result | None:
        """Returns the result of a step; None if it has none that can be read: then it runs again."""
        try:
            return Result(**json.loads((self.path / "steps" / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, result: Result) -> None:
        write(self.path / "steps" / f"{result.name}.json", asdict(result))


def take(nights: Path, key: Mapping[str, Any], steps: Iterable[str], now: float, *, fresh: bool = False) -> Folder:
    """Returns the folder of the last night, if it is this one (`key`) and not finished; else a new one.

    `steps` are those of a whole night. `fresh` asks for a new one.
    """
    names = tuple(steps)
    if not fresh and (newest := _newest(nights)) and newest[1] == json.loads(json.dumps(key)):
        folder = newest[0]
        if 0 <= now - folder.start < RESUMED and not all(map(_over, map(folder.result, names))):
            return folder
    folder = Folder(_unused(nights, datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")), now)
    write(folder.path / "night.json", {"schema": SCHEMA, "began": now, "key": key})
    return folder


def write(path: Path, content: Any) -> None:
    """Writes JSON, all of it or nothing."""
    files.write(path, json.dumps(content, indent=1) + "\n")


def append(path: Path, content: Mapping[str, Any]) -> None:
    """Appends a line of JSON, on a line of its own though a killed process left half a line."""
    whole = not path.exists() or path.read_bytes()[-1:] in (b"\n", b"")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(content) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Reads what `append` wrote. A broken line is left out: what it was about is measured again."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content


def _newest(nights: Path) -> tuple[Folder, Any] | None:
    folders = []
    for path in nights.glob("*/night.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["schema"] == SCHEMA:
                folders.append((Folder(path.parent, float(record["began"])), record["key"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return max(folders, key=lambda one: one[0].start, default=None)


def _over(result: Result | None) -> bool:
    return result is not None and result.outcome != "failed"


def _unused(nights: Path, date: str) -> Path:
    number = 1
    while (path := nights / (date if number == 1 else f"{date}-{number}")).exists():
        number += 1
    return path
