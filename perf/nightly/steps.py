"""The steps of a night, one after the other: what is done is kept, what fails is recorded, what still can goes on."""
from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from perf.nightly.folder import Done, Folder

T = TypeVar("T")


class Skipped(Exception):
    """Why a step has nothing to do tonight, in one line."""


class Unfit(ValueError):
    """Why the machine could not be measured on, in one line."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """A step: `do` raises Skipped, or for a failure ValueError or OSError. It runs if all that it `needs` are ok; and
    again if one of these ran, or of those it comes `after`, whatever became of them.

    `always`: each time the night is taken up, which alone makes nothing else run again. `last`: it tells of the others,
    so it runs whatever became of them, and again whenever one of them did.
    """

    name: str
    do: Callable[[T], None]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    always: bool = False
    last: bool = False


def run(jobs: Sequence[Job[T]], night: T, folder: Folder, say: Callable[[str], None] = print) -> dict[str, Done]:
    """What became of each, in their order. A job is not run again if it was ok before, and nothing it rests on ran."""
    done: dict[str, Done] = {}
    ran: set[str] = set()
    for job in jobs:
        before = folder.done(job.name)
        again = bool(ran) if job.last else bool(ran.intersection((*job.needs, *job.after)))
        if before and before.outcome == "ok" and not again and not job.always:
            done[job.name] = before
            say(f"{job.name}: done before")
            continue
        lacking = next((done[name] for name in job.needs if done[name].outcome != "ok"), None)
        if lacking:
            found = Done(job.name, "skipped", f"needs the step {lacking.name}, which {_became(lacking)}")
        else:
            say(f"{job.name} ...")
            found = _run(job, night, folder)
            if found.outcome != "skipped" and not job.always:
                ran.add(job.name)
        folder.keep(found)
        done[job.name] = found
        say(f"{job.name}: {found.outcome}{f', {found.reason}' if found.reason else ''}")
    return done


def _run(job: Job[T], night: T, folder: Folder) -> Done:
    started = time.monotonic()
    outcome, reason, unfit = "ok", None, False
    try:
        job.do(night)
    except Skipped as error:
        outcome, reason = "skipped", str(error)
    except Exception as error:  # whatever it is, those who are told of the night hear of it
        outcome, reason, unfit = "failed", _line(error), isinstance(error, Unfit)
        if not isinstance(error, ValueError | OSError):
            with folder.log(job.name).open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
    return Done(job.name, outcome, reason, round(time.monotonic() - started, 1), unfit)


def _line(error: Exception) -> str:
    said = (str(error).strip() or "no reason given").splitlines()[0]
    return said if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said}"


def _became(done: Done) -> str:
    return "failed" if done.outcome == "failed" else "was skipped"
