"""The first steps of a night: the machine, the tests, and the benchmarks with their history."""
from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from perf.compare.project import project
from perf.measure.evidence import Evidence, load, mark
from perf.nightly.night import Machine, Night, selection
from perf.nightly.steps import Skipped, Unfit
from perf.system import exit_codes, files
from perf.system.tools import ending, last_line

LOOKS, PAUSE = 3, 30.0  # times that the machine is looked at, and seconds between: what disturbs it may end
NO_HISTORY = "no history: "


def look(root: Path, device: str | None, sleep: Callable[[float], None] = time.sleep) -> Machine:
    """Looks at the machine in a process of its own, since this one must not hold a GPU. Raises ValueError, in one line,
    if it can't."""
    for left in reversed(range(LOOKS)):
        words = [sys.executable, "-m", "perf", "machine", *([device] if device else [])]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode not in (exit_codes.OK, exit_codes.FAILED):
            raise ValueError(last_line(done.stderr, ending(done.returncode)))
        try:
            machine = Machine.read(done.stdout)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"the machine can't be looked at: {(done.stderr or done.stdout).strip()[-200:]}") from None
        if machine.unfit is None or not left:
            break
        sleep(PAUSE)
    return machine


def machine(night: Night) -> None:
    """Raises Unfit if the machine is not fit to measure."""
    if night.machine.unfit:
        raise Unfit(night.machine.unfit)


def tests(night: Night) -> None:
    """Runs the tests. Measuring goes on whatever their outcome: a wrong variant has no time anyway."""
    if not night.options.tests:
        raise Skipped("--no-tests")
    code = night.run("tests", "pytest", "-q", "-p", "no:cacheprovider")
    if code:
        why = "there are none here" if code == exit_codes.NO_TESTS else night.last_line("tests")
        raise ValueError(f"{why}; {night.folder.log('tests')}")


def benchmarks(night: Night) -> None:
    """Measures every benchmark that was not measured before a kill. One that fails is a finding: the step is ok."""
    one_pass(night, "benchmarks", 1)
    log, evidence = night.folder.log("benchmarks"), rows(night.evidence)
    if not any(row.outcome in ("ok", "wrong") for row in evidence.values()):
        if reason := next((row.reason for row in evidence.values() if row.outcome == "invalid"), None):
            raise Unfit(reason)
        raise ValueError(f"nothing was measured: {night.last_line('benchmarks')}; {log}")
    last_run = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2].splitlines()
    if lost := next((line for line in last_run if line.startswith(NO_HISTORY)), None):
        raise ValueError(f"{lost}; {log}")


def adopt(night: Night) -> None:
    """Puts what shards measured, on machines like this one, in the place of tonight's launches, which go on with what
    is missing. Raises ValueError, in one line, for evidence of another commit or kind of machine."""
    for number, path in enumerate(night.options.measured, 1):
        for row in load(path):
            for what, here, there in (("commit", night.head, row.revision), ("machine", night.machine.id, row.machine)):
                if here != there:
                    raise ValueError(f"{path}: {row.workload.id} is of {what} {there}, this night of {here}; merge "
                                     "what shards of this one measured")
        if not night.evidence_of(number).exists():
            files.write(night.evidence_of(number), path.read_text(encoding="utf-8"))


def one_pass(night: Night, step: str, number: int, only: Collection[str] = ()) -> None:
    """Launches tonight's benchmarks, or `only` these, for the `number`-th time; the first launch goes into the history.
    Where a row ends the process, another one goes on.

    Raises Unfit or ValueError where nothing could be measured.
    """
    history = [f"--perf-history={night.options.results}"] if number == 1 else []
    keywords = ["-k", " or ".join(only)] if only else []  # ids are words to -k
    in_flight, before = mark(night.evidence_of(number)), None
    while True:
        code = night.run(step, "pytest", *project(night.root).benchmarks, "--benchmark-only",
                         *selection(night.device, night.options),
                         f"--perf-evidence={night.evidence_of(number)}", "--perf-unfit=invalid", "--perf-resume",
                         *history, *keywords)
        left = in_flight.read_bytes() if in_flight.exists() else None
        if left in (None, before):
            break
        before = left
    night.allow(step, code, (exit_codes.OK, exit_codes.FAILED, exit_codes.UNFIT))
    if code == exit_codes.UNFIT:
        raise Unfit(f"the machine was unfit for all that was tried; {night.folder.log(step)}")


def rows(evidence: Path) -> dict[str, Evidence]:
    """Returns the last row of each benchmark, but a good one rather than a later one that is not."""
    last: dict[str, Evidence] = {}
    for row in load(evidence) if evidence.exists() else ():
        if row.outcome == "ok" or row.workload.id not in last or last[row.workload.id].outcome != "ok":
            last[row.workload.id] = row
    return last
