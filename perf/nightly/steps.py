"""The steps of a night, and the folder in which each leaves its result as soon as it is there, a failure too.

    .perf/nightly/2026-11-25/night.json       when it began, of which commit, machine and options: its key
                            /steps/NAME.json  the result of a step that ended
                            /NAME.log         what the step printed
                            /evidence.jsonl, compared.jsonl, bisected.jsonl, alerts/

Everything in it is written at once or line by line (perf/system/files.py), so a killed night loses nothing of what it
measured.
"""
from __future__ import annotations

import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from perf.compare.record import Step
from perf.system import files
from perf.system.tools import first_line

SCHEMA = 1
COMPARED, BISECTED = "compared.jsonl", "bisected.jsonl"  # a line for each benchmark
RESUMED = 20 * 3600.0  # seconds after its begin that a night is taken up again; later it is another night

T = TypeVar("T")


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
            return Result(**files.from_json((self.path / "steps" / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, result: Result) -> None:
        write(self.path / "steps" / f"{result.name}.json", asdict(result))


def take(nights: Path, key: Mapping[str, Any], steps: Iterable[str], now: float, *, fresh: bool = False,
         records: Path | None = None) -> Folder:
    """Returns the folder of the last night, if it is this one (`key`) and not finished; else a new one.

    `steps` are those of a whole night. `fresh` asks for a new one. It has no name that one of the `records` has, whose
    folder may be gone, or on another machine.
    """
    names = tuple(steps)
    if not fresh and (newest := _newest(nights)) and newest[1] == json.loads(json.dumps(key)):
        folder = newest[0]
        if 0 <= now - folder.start < RESUMED and not all(map(_over, map(folder.result, names))):
            return folder
    folder = Folder(_unused(nights, datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d"), records or nights), now)
    write(folder.path / "night.json", {"schema": SCHEMA, "began": now, "key": key})
    return folder


def write(path: Path, content: Any) -> None:
    """Writes JSON, all of it or nothing."""
    files.write(path, json.dumps(content, indent=1) + "\n")


def _newest(nights: Path) -> tuple[Folder, Any] | None:
    folders = []
    for path in nights.glob("*/night.json"):
        try:
            record = files.from_json(path.read_text(encoding="utf-8"))
            if record["schema"] == SCHEMA:
                folders.append((Folder(path.parent, float(record["began"])), record["key"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return max(folders, key=lambda one: one[0].start, default=None)


def _over(result: Result | None) -> bool:
    return result is not None and result.outcome != "failed"


def _unused(nights: Path, date: str, records: Path) -> Path:
    names = itertools.chain([date], (f"{date}-{number}" for number in itertools.count(2)))
    return next(nights / name for name in names
                if not ((nights / name).exists() or (records / f"{name}.json").exists()))


class Skipped(Exception):
    """Raised by a step that has nothing to do tonight, with the reason in one line."""


class Unfit(ValueError):
    """Raised by a step that could not measure on this machine, with the reason in one line."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """Is a step: `do` raises Skipped, or for a failure ValueError or OSError.

    It runs if all that it `needs` are ok. It runs again if one of these ran, or one of those it comes `after`, whatever
    their outcome. `always`: it runs each time the night is taken up, which alone makes nothing else run again. `last`:
    it reports the others, so it runs whatever their outcome, and again whenever one of them ran.
    """

    name: str
    do: Callable[[T], None]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    always: bool = False
    last: bool = False


def run(jobs: Sequence[Job[T]], night: T, folder: Folder, say: Callable[[str], None]) -> dict[str, Result]:
    """Runs the jobs in their order and returns their results. A job is not run again if it was ok before, and nothing
    that it rests on ran."""
    results: dict[str, Result] = {}
    ran: set[str] = set()
    for job in jobs:
        before = folder.result(job.name)
        again = bool(ran) if job.last else bool(ran.intersection((*job.needs, *job.after)))
        if before and before.outcome == "ok" and not again and not job.always:
            results[job.name] = before
            say(f"{job.name}: done before")
            continue
        obstacle = next((results[name] for name in job.needs if results[name].outcome != "ok"), None)
        if obstacle:
            how = "failed" if obstacle.outcome == "failed" else "was skipped"
            result = Result(job.name, "skipped", f"needs the step {obstacle.name}, which {how}")
        else:
            say(f"{job.name} ...")
            result = _run(job, night, folder)
            if result.outcome != "skipped" and not job.always:
                ran.add(job.name)
        folder.save(result)
        results[job.name] = result
        say(f"{job.name}: {result.outcome}{f', {result.reason}' if result.reason else ''}")
    return results


def _run(job: Job[T], night: T, folder: Folder) -> Result:
    started = time.monotonic()
    outcome, reason, unfit = "ok", None, False
    try:
        job.do(night)
    except Skipped as error:
        outcome, reason = "skipped", str(error)
    except Exception as error:  # whatever it is, the record has it
        outcome, reason, unfit = "failed", first_line(error), isinstance(error, Unfit)
        if not isinstance(error, ValueError | OSError):
            reason = f"{type(error).__name__}: {reason}"
            with folder.log(job.name).open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
    return Result(job.name, outcome, reason, round(time.monotonic() - started, 1), unfit)
