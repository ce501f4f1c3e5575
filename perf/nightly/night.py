"""A night from beginning to end: its steps, in their order, and what they come to."""
from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.alerts.sets import Why, alarms
from perf.compare.checkout import resolve
from perf.compare.record import Night
from perf.nightly import measuring, record
from perf.nightly.bisection import bisection
from perf.nightly.folder import Done, Folder, take
from perf.nightly.screening import launches, learn, screen
from perf.nightly.steps import Job, run
from perf.nightly.telling import alert, site
from perf.nightly.tonight import Look, Options, Tonight
from perf.nightly.verdict import DECIDED, verdict
from perf.system import exit_codes, git

JOBS: tuple[Job[Tonight], ...] = (
    Job("machine", measuring.machine, always=True),  # fitness is of the moment
    Job("tests", measuring.tests),
    Job("benchmarks", measuring.benchmarks, needs=("machine",)),
    Job("launches", launches, needs=("machine", "benchmarks")),
    Job("screen", screen, needs=("machine", "launches")),
    Job("verdict", verdict, needs=("machine", "benchmarks"), after=("screen",)),
    Job("bisection", bisection, needs=("machine", "verdict")),
    Job("learn", learn, needs=("launches",), after=("verdict",)),
    Job("alert", alert, last=True),
    Job("site", site, last=True),
)
MEASURE = ("benchmarks", "launches", "screen", "verdict", "bisection")


def through(root: Path, options: Options, head: str, held: int, *,
            fresh: bool) -> tuple[Tonight, Night, dict[str, Done]]:
    """All steps; what they left."""
    look = measuring.looked(root, options.device)
    device = options.device or look.device
    folder = take(options.work, key(head, look, device, options), [job.name for job in JOBS], time.time(), fresh=fresh)
    if whole(folder):
        look = Look(look.id, look.fingerprint, None)  # fit or not, nothing is left to measure
    night = Tonight(root, options, folder, head, look, device, held)
    say(f"night {folder.path.name}: {head[:8]} on {device}, in {folder.path}")
    done = run(JOBS, night, folder, say)
    return night, record.save(night, [job.name for job in JOBS]), done


def whole(folder: Folder) -> bool:
    """Whether all that is measured was: on a fit machine, for without one the steps are skipped."""
    done = [folder.done(name) for name in ("machine", *MEASURE)]
    return all(one is not None and one.outcome != "failed" for one in done)


def key(head: str, look: Look, device: str, options: Options) -> dict[str, Any]:
    """What makes a night another one, so that what was measured does not belong to it."""
    return {"head": head, "machine": look.id, "device": device, "grid": options.grid, "more": options.more,
            "results": str(options.results), "last_good": options.last_good}


def committed(root: Path) -> str:
    """The head's full hash. Raises ValueError, in one line, for a working tree that is no commit's."""
    head = resolve(root, "HEAD")
    if changes := git.changes(root):
        raise ValueError(f"uncommitted changes ({changes[0]} among them): a night is of a commit; commit them, or put "
                         "them away (git stash)")
    return head


def exit_code(done: Mapping[str, Done], night: Night, accepted: Why) -> int:
    """The worst comes first. Pure."""
    if alarms(night, accepted):
        return exit_codes.FAILED
    if any(one.unfit for one in done.values()) and not any(one.word in DECIDED for one in night.findings):
        return exit_codes.UNFIT
    return exit_codes.STEP_FAILED if any(one.outcome == "failed" for one in done.values()) else exit_codes.OK


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)
