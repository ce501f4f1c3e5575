"""A night from beginning to end: its steps in their order, and its exit code."""
from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.alerts.sets import Why, alarms
from perf.compare.checkout import resolve
from perf.compare.record import Comparison
from perf.nightly import measure
from perf.nightly.bisection import bisection
from perf.nightly.night import Machine, Night, Options
from perf.nightly.publish import alert, save, site
from perf.nightly.screen import launches, learn, screen
from perf.nightly.steps import Folder, Job, Result, run, take
from perf.nightly.verdict import DECIDED, verdict
from perf.system import exit_codes, git

JOBS: tuple[Job[Night], ...] = (
    Job("machine", measure.machine, always=True),  # fitness is of the moment
    Job("tests", measure.tests),
    Job("benchmarks", measure.benchmarks, needs=("machine",)),
    Job("launches", launches, needs=("machine", "benchmarks")),
    Job("screen", screen, needs=("machine", "launches")),
    Job("verdict", verdict, needs=("machine", "benchmarks"), after=("screen",)),
    Job("bisection", bisection, needs=("machine", "verdict")),
    Job("learn", learn, needs=("launches",), after=("verdict",)),
    Job("alert", alert, last=True),
    Job("site", site, last=True),
)
MEASURE = ("benchmarks", "launches", "screen", "verdict", "bisection")


def run_night(root: Path, options: Options, head: str, lock: int, *,
              fresh: bool) -> tuple[Night, Comparison, dict[str, Result]]:
    """Runs all steps, and returns the night, its record and the results of its steps."""
    machine = measure.look(root, options.device)
    device = options.device or machine.device
    steps = [job.name for job in JOBS]
    folder = take(options.work, key(head, machine, device, options), steps, time.time(), fresh=fresh,
                  records=options.nights)
    if all_measured(folder):
        machine = replace(machine, unfit=None)  # fit or not, nothing is left to measure
    night = Night(root, options, folder, head, machine, device, lock)
    measure.adopt(night)
    say(f"night {folder.path.name}: {head[:8]} on {device}, in {folder.path}")
    results = run(JOBS, night, folder, say)
    return night, save(night, steps), results


def all_measured(folder: Folder) -> bool:
    """Tells whether nothing is left to measure. On an unfit machine the steps are skipped, and all is left."""
    results = [folder.result(name) for name in ("machine", *MEASURE)]
    return all(one is not None and one.outcome != "failed" for one in results)


def key(head: str, machine: Machine, device: str, options: Options) -> dict[str, Any]:
    """Returns what tells one night from another: what one measured does not belong to another."""
    return {"head": head, "machine": machine.id, "device": device, "grid": options.grid, "more": options.more,
            "results": str(options.results), "last_good": options.last_good}


def head_commit(root: Path) -> str:
    """Returns the head's full hash. Raises ValueError, in one line, for a working tree that is no commit's."""
    head = resolve(root, "HEAD")
    if changes := git.changes(root):
        raise ValueError(f"uncommitted changes ({changes[0]} among them): a night is of a commit; commit them, or put "
                         "them away (git stash)")
    return head


def exit_code(results: Mapping[str, Result], comparison: Comparison, accepted: Why) -> int:
    """Returns the exit code of the worst that happened. Pure."""
    if alarms(comparison, accepted):
        return exit_codes.FAILED
    decided = any(one.word in DECIDED for one in comparison.findings)
    if any(one.unfit for one in results.values()) and not decided:
        return exit_codes.UNFIT
    return exit_codes.STEP_FAILED if any(one.outcome == "failed" for one in results.values()) else exit_codes.OK


def say(line: str) -> None:
    """Prints a line with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)
