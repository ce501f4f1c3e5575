"""Measures many small rows with faults in some, goes on where the process ends, and accounts for each row.

    python -m perf.tests.soak --rows 500 FILE     # a line of JSON a row, and the summary as the last one

Memory is that of one more process that measures all rows, with the faults that no process outlives left out.

One row in twenty has a fault, in one of its first calls: which, and where, is drawn from a seed. The planted code
writes down that it was reached, so that a row with a fault that nobody saw is told from one whose fault never came.
"""
from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from perf.measure.evidence import ENDED, TRIES, Evidence, load
from perf.tests.repositories import git

ROOT = Path(__file__).parents[2]
SHARE = 0.05  # of the rows have a fault
HANG = 20  # seconds, then a row is taken to hang; the first one imports for some, on a busy machine
# What becomes of the row: its outcome, and a part of its reason.
FAULTS = {"raise": ("failed", "ZeroDivisionError: planted"), "nan": ("wrong", "NaN"), "exit": ("failed", ENDED),
          "crash": ("failed", ENDED), "hang": ("failed", "hung: ended after"),
          "memory": ("skipped", "does not fit: asked for"), "switch": ("wrong", "changed the default dtype")}
PLANTED = '''
import ctypes, json, os, time
import psutil, pytest, torch
from attention.backends.eager import Eager

FAULTS = json.loads(open("faults.json").read())
honest, row, calls = Eager.attend, "", 0


def attend(self):
    call = honest(self)

    def faulty(*qkv, **options):
        global calls
        calls += 1
        kind, first = FAULTS.get(row, ("", 0))
        out = call(*qkv, **options)
        if kind and calls >= first:
            with open(".reached", "a") as file:
                file.write(row + "\\n")
            if kind == "raise":
                raise ZeroDivisionError("planted")
            elif kind == "nan":
                out.view(-1)[0] = torch.nan
            elif kind == "exit":
                os._exit(0)
            elif kind == "crash":
                ctypes.string_at(0)
            elif kind == "hang":
                time.sleep(1e6)
            elif kind == "memory":
                torch.empty(2 ** 48, dtype=torch.uint8)
            elif kind == "switch":
                torch.set_default_dtype(torch.float64)
        return out

    return faulty


Eager.attend = attend


def pytest_runtest_setup(item):
    global row, calls
    row, calls = item.callspec.id, 0


def pytest_runtest_teardown(item):
    with open(".memory", "a") as file:
        print(psutil.Process().memory_info().rss, file=file)
'''
TEST = "import pytest\n\n\n@pytest.mark.workloads('attention')\ndef test_it(measure):\n    measure()\n"


def soak(folder: Path, rows: int, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Runs `rows` rows (a multiple of 20) in the folder. Returns a record of each, and the summary."""
    began = time.monotonic()
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--benchmark-only",
                 "--perf-device=cpu", "--perf-unfit=keep", "--perf-functions=softmax", "--perf-phases=forward",
                 "--perf-causal=causal", "--perf-backends=eager", "--perf-heads=1,2", "--perf-head-dims=8,16",
                 "--perf-batches=1,2,3,4,5", f"--perf-seqlens={','.join(str(4 * n + 4) for n in range(rows // 20))}",
                 "--perf-precision=30%", f"--perf-case-timeout={HANG}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib --benchmark-skip\n")
    (folder / "test_it.py").write_text(TEST)
    conftest, honest = folder / "conftest.py", (ROOT / "conftest.py").read_text()
    conftest.write_text(honest)
    listed = subprocess.run([*arguments, "--collect-only"], cwd=folder, env=environment, capture_output=True, text=True,
                            check=True).stdout
    names = [line.partition("[")[2][:-1] for line in listed.splitlines() if line.startswith("test_it.py::")]
    draw = random.Random(seed)
    kinds = itertools.cycle(FAULTS)
    faults = {name: (next(kinds), draw.randint(1, 6)) for name in draw.sample(names, round(SHARE * len(names)))}
    conftest.write_text(honest + PLANTED)
    (folder / "faults.json").write_text(json.dumps(faults))
    (folder / ".gitignore").write_text(".*\n__pycache__/\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "faults")):
        git(folder, *words)
    runs, ends, done = 0, [], None
    while done is None or "evidence in" not in done.stdout:
        done = subprocess.run([*arguments, *(["--perf-resume"] if runs else [])], cwd=folder, env=environment,
                              capture_output=True, text=True, check=False)
        runs += 1
        ends.append(done.returncode)
        if runs > 1 + TRIES * len(faults):
            raise RuntimeError(done.stdout + done.stderr)
    last = {row.workload.id: row for row in load(folder / ".perf" / "evidence.jsonl")}
    (folder / "faults.json").write_text(json.dumps({name: fault for name, fault in faults.items()
                                                    if fault[0] not in ("exit", "crash")}))
    (folder / ".memory").unlink()
    subprocess.run([*arguments, "--perf-evidence=.perf/again.jsonl"], cwd=folder, env=environment, capture_output=True,
                   check=False)
    reached = set((folder / ".reached").read_text().split())
    records = [_account(name, last.get(name), *faults.get(name, ("", 0)), name in reached) for name in names]
    return records, {"rows": len(names), "runs": runs, "ends": ends, "seconds": round(time.monotonic() - began, 1),
                     "tally": _tally(records), "megabytes": _growth((folder / ".memory").read_text())}


def _account(name: str, row: Evidence | None, kind: str, call: int, reached: bool) -> dict[str, Any]:
    outcome, reason = (row.outcome, row.reason or "") if row else ("lost", "")
    wanted, words = FAULTS[kind] if kind and reached else ("ok", "")
    as_wanted = outcome == wanted and words in reason
    return {"row": name, "fault": kind, "call": call, "reached": reached, "outcome": outcome, "reason": reason,
            "as_wanted": as_wanted}


def _tally(records: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Counts by kind: planted, reached, and those that came out as they should."""
    return {kind or "none": [len(of), sum(one["reached"] for one in of), sum(one["as_wanted"] for one in of)]
            for kind in ("", *FAULTS) if (of := [one for one in records if one["fault"] == kind])}


def _growth(text: str) -> list[float]:
    """Tells the memory of a process in MB: medians of a tenth of its rows each, the first rows' left out."""
    sizes = [int(line) for line in text.split()]
    part = max(1, len(sizes) // 10)
    return [round(statistics.median(sizes[at:at + part]) / 1e6, 1) for at in range(part, len(sizes) - part + 1, part)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        of_rows, summary = soak(Path(scratch), given.rows, given.seed)
    given.file.write_text("".join(f"{json.dumps(one)}\n" for one in (*of_rows, summary)))
    print(json.dumps(summary))
