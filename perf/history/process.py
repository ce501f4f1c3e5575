"""Starts the process that measures what today's harness chose in the code of one commit (perf/run/commit.py).

    run = choose(root, ["--perf-grid", "quick"])      # by the options of a pytest run
    reason = measuring(run)(side, evidence)           # None, or why it measured nothing
"""
from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from perf.compare.checkout import working_tree
from perf.compare.nursery import Forked, Nursery
from perf.compare.side import Side
from perf.measure.evidence import Evidence, Writer, load
from perf.system.tools import ending, last_line
from perf.workloads.workload import Workload

MEASURE = "perf.run.commit"
CHOICE = "PERF_CHOICE"  # of the environment: the file that a run of pytest which only collects writes its `Run` into

Measure = Callable[[Side, Path], str | None]  # side, evidence -> why there is none


@dataclass(frozen=True)
class Run:
    """Says what to measure, on which device, and how: `precision` (None: the device's usual one) and `unfit` are those
    of a pytest run; `ahead` compiles before, in processes side by side."""

    workloads: tuple[Workload, ...]
    device: str
    precision: float | None = None
    unfit: str = "keep"
    ahead: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Run:
        record = json.loads(text)
        return cls(**record | {"workloads": tuple(Workload(**fields) for fields in record["workloads"])})


def choose(root: Path, options: Sequence[str]) -> Run:
    """Returns what `pytest perf/ --benchmark-only` would measure under `options` in the working tree. Raises ValueError
    with the line in which pytest gives up, where that is nothing."""
    with working_tree(root) as side, tempfile.TemporaryDirectory(prefix="perf-choice-") as scratch:
        choice = Path(scratch, "choice.json")
        command = [side.python, "-m", "pytest", "perf/", "--benchmark-only", "--collect-only", "-q",
                   "-p", "no:cacheprovider", "-p", MEASURE, "--perf-unfit=invalid", *options]
        done = subprocess.run(command, cwd=side.folder, env=side.variables() | {CHOICE: str(choice)},
                              capture_output=True, text=True, check=False)
        if not choice.exists():
            text = done.stderr + done.stdout
            lines = [line for line in text.splitlines() if "error: " in line.lower() and "usage: " not in line]
            raise ValueError(f"nothing to measure: {last_line(lines[0] if lines else text, ending(done.returncode))}")
        return Run.from_json(choice.read_text(encoding="utf-8"))


def measuring(run: Run, nursery: Nursery | None = None) -> Measure:
    """Returns a function that measures the run in a side's folder, in a process of its own. One that dies costs the row
    in flight: another takes the rest."""
    def measured(side: Side, evidence: Path) -> str | None:
        left = run.workloads
        while left and (reason := _process(replace(run, workloads=left), side, evidence, nursery)):
            rows = {row.workload for row in load(evidence)} if evidence.exists() else set()
            if not rows:
                return reason
            left = tuple(w for w in left if w not in rows)
            for fatal in left[:1]:
                Writer(evidence).append(Evidence(fatal, "failed", f"its process ended: {reason}"))
            left = left[1:]
        return None

    return measured


def _process(run: Run, side: Side, evidence: Path, nursery: Nursery | None) -> str | None:
    """Returns how the process ended and what it said last, None if all is well."""
    file = evidence.with_name("run.json")
    file.write_text(run.to_json(), encoding="utf-8")
    words = [str(file), str(evidence)]
    with tempfile.TemporaryFile() as errors:
        process: subprocess.Popen[bytes] | Forked = (
            nursery.worker(words, side.folder, side.variables(), errors.fileno(), MEASURE) if nursery else
            subprocess.Popen([side.python, "-m", MEASURE, *words], cwd=side.folder, env=side.variables(),
                             stdout=subprocess.PIPE, stderr=errors))
        assert process.stdout is not None
        with process.stdout as answers:
            imports = answers.readline()  # at its end
        status = process.wait()
        if nursery and imports:
            nursery.learn(json.loads(imports))
        errors.seek(0)
        return last_line(errors.read().decode(errors="replace"), ending(status)) if status else None
