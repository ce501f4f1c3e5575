"""Runs the steps of a night: a result is saved as soon as it is there, a failure too, and what still can goes on."""
from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from perf.nightly.folder import Folder, Result
from perf.system.tools import first_line

T = TypeVar("T")


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


def run(jobs: Sequence[Job[T]], night: T, folder: Folder, say: Callable[[str], None] = print) -> dict[str, Result]:
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
