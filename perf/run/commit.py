"""Measures workloads in the code of one commit: one process, by the path of a pytest run, a row of evidence each.

    python -m perf.run.commit RUN EVIDENCE      in a side's folder; RUN is the JSON of a `Run`

A commit of the past knows fewer names than today's harness, which chose the workloads: what it lacks is skipped. A line
on stdout lists the installed modules that had to be imported besides, for whoever forks the next one.
"""
from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perf.history.process import CHOICE, Run
from perf.measure.evidence import Evidence
from perf.run.replay import Script
from perf.system import devices


def pytest_collection_finish(session: pytest.Session) -> None:
    """Writes what a pytest run would measure, as a plugin of it (`-p perf.run.commit`)."""
    from perf.run.items import workload_of
    from perf.run.options import settings

    workloads = tuple(w for item in session.items if (w := workload_of(item)))
    if workloads:
        chosen = settings(session.config)
        Path(os.environ[CHOICE]).write_text(
            Run(workloads, str(chosen.device), chosen.precision, chosen.unfit).to_json(), encoding="utf-8")


class Unheard(Script):
    """Takes the place of pytest-benchmark's fixture, and of the script that plays samples to it."""

    enabled = True

    def __init__(self) -> None:
        super().__init__()
        self.extra_info: dict[str, Any] = {}

    def play(self, *_: Any) -> None:
        """Plays nothing: the samples are in the evidence."""


def measure(run: Run, evidence: Path) -> None:
    """Writes a row for each workload, whatever becomes of it."""
    device = devices.device(run.device)  # before anything loads torch: threads wait as in a pytest run

    import attention
    from perf.run.options import PRECISION, Settings
    from perf.run.session import Session

    names, unheard = set(attention.names()), Unheard()
    here = [w for w in run.workloads if w.variant in names]
    settings = Settings(device, "full", here, evidence, run.precision or PRECISION[device.type], run.unfit)
    session = Session(settings, unheard)
    session.compiled_ahead = not run.ahead
    for w in run.workloads:
        if w not in here:
            session.writer.append(Evidence(w, "skipped", f"{w.variant} is not registered"))
            continue
        with contextlib.suppress(Exception, pytest.skip.Exception, pytest.fail.Exception):  # the row says what
            session.measure(w, unheard)


def main(arguments: Sequence[str]) -> NoReturn:
    """Measures, lists what it imported, and ends the process."""
    from perf.compare.side import installed_modules
    from perf.compare.worker import leave, stdout_for_answers

    before = set(sys.modules)
    answers = stdout_for_answers()
    run, evidence = arguments
    measure(Run.from_json(Path(run).read_text(encoding="utf-8")), Path(evidence))
    print(json.dumps(installed_modules(before)), file=answers, flush=True)
    leave()


if __name__ == "__main__":
    main(sys.argv[1:])
