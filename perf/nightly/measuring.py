"""The first steps of a night: a look at the machine, the tests, the benchmarks with the history."""
from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from perf.measure.evidence import Evidence, load
from perf.nightly.process import status
from perf.nightly.steps import Skipped, Unfit
from perf.nightly.tonight import Look, Tonight, chosen, look
from perf.system import exit_codes

LOOKS, PAUSE = 3, 30.0  # at the machine, and seconds between them: what disturbs it may end
NO_HISTORY = "no history: "


def looked(root: Path, device: str | None, sleep: Callable[[float], None] = time.sleep) -> Look:
    """At the machine, in a process of its own: this one must not hold a GPU. Raises ValueError, in one line."""
    for left in reversed(range(LOOKS)):
        words = [sys.executable, "-m", "perf", "machine", *([device] if device else [])]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise ValueError((done.stderr.strip().splitlines() or [status(done.returncode)])[-1])
        try:
            found = look(done.stdout)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"the machine can't be looked at: {(done.stderr or done.stdout).strip()[-200:]}") from None
        if found.unfit is None or not left:
            break
        sleep(PAUSE)
    return found


def machine(night: Tonight) -> None:
    if night.look.unfit:
        raise Unfit(night.look.unfit)


def tests(night: Tonight) -> None:
    """Whatever they say, measuring goes on: a wrong variant has no time anyway."""
    if not night.options.tests:
        raise Skipped("--no-tests")
    code = night.run("tests", "pytest", "-q", "-p", "no:cacheprovider")
    if code:
        said = "there are none here" if code == exit_codes.NO_TESTS else night.last_line("tests")
        raise ValueError(f"{said}; {night.folder.log('tests')}")


def benchmarks(night: Tonight) -> None:
    """What was measured before a kill is not measured again. A benchmark that fails is a finding, not the step's."""
    one_pass(night, "benchmarks", 1)
    log, rows = night.folder.log("benchmarks"), measured(night.evidence)
    if not any(row.outcome in ("ok", "wrong") for row in rows.values()):
        if reason := next((row.reason for row in rows.values() if row.outcome == "invalid"), None):
            raise Unfit(reason)
        raise ValueError(f"nothing was measured: {night.last_line('benchmarks')}; {log}")
    said = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2].splitlines()
    if lost := next((line for line in said if line.startswith(NO_HISTORY)), None):
        raise ValueError(f"{lost}; {log}")


def one_pass(night: Tonight, step: str, number: int, only: Collection[str] = ()) -> None:
    """The `number`-th launch of tonight's benchmarks, or of `only` these; the first goes into the history. Raises Unfit
    or ValueError where nothing could be measured."""
    history = [f"--perf-history={night.options.results}"] if number == 1 else []
    named = ["-k", " or ".join(only)] if only else []  # ids are words to -k
    code = night.run(step, "pytest", "perf/", "--benchmark-only", *chosen(night.device, night.options),
                     f"--perf-evidence={night.evidence_of(number)}",
                     "--perf-unfit=invalid", "--perf-resume", *history, *named)
    if code == exit_codes.UNFIT:
        raise Unfit(f"the machine was unfit for all that was tried; {night.folder.log(step)}")
    if code not in (0, 1):
        raise ValueError(f"{status(code)}: {night.last_line(step)}; {night.folder.log(step)}")


def measured(evidence: Path) -> dict[str, Evidence]:
    """The last row of each benchmark, but a good one rather than a later one that is not."""
    found: dict[str, Evidence] = {}
    for row in load(evidence) if evidence.exists() else ():
        if row.outcome == "ok" or row.workload.id not in found or found[row.workload.id].outcome != "ok":
            found[row.workload.id] = row
    return found
