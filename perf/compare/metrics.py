"""Asks a GPU's own counters, by NVIDIA's ncu, why a call got slower, where nothing else that was counted says it.

    explain(cases, base, head, device)   # gives both sides of what regressed their `metrics`, or why there are none
    read(workloads, side, device)        # [{"nanoseconds": 1e5, "instructions": 2e8, ...}], one for each workload

ncu starts a process for each side, which makes each call ready and shows one to it. A start takes seconds, so there is
one a variant and side, for its slowest calls, and none for models of many launches. It runs each kernel
several times, from cold caches; the clocks stay as they are. A whole call has the sum of its kernels, and the mean
over their time of what is a share. perf/verdict/causes.py says what follows.
"""
from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from perf.bench import profile
from perf.compare.process import variables
from perf.compare.side import Side
from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from perf.compare.pairs import Case

MOST = 4  # benchmarks at one time
LAUNCHES = 64  # of one call
SECONDS = 120.0  # after which ncu has hung

TIME, L2 = "gpu__time_duration.sum", "lts__t_bytes.sum"
SUMS = {"nanoseconds": TIME, "instructions": "smsp__inst_executed.sum", "dram": "dram__bytes.sum", "l2": L2}
PERCENT = {  # of the peak, or of what was asked for; and what it is a share of
    "dram_busy": ("dram__throughput.avg.pct_of_peak_sustained_elapsed", TIME),
    "l2_busy": ("lts__t_sectors.avg.pct_of_peak_sustained_elapsed", TIME),
    "occupancy": ("sm__warps_active.avg.pct_of_peak_sustained_elapsed", TIME),
    "l2_hits": ("lts__t_sector_hit_rate.pct", L2)}
METRICS = (*SUMS.values(), *(metric for metric, _ in PERCENT.values()))
ARGUMENTS = ("--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw",
             "--print-units", "base", "--metrics", ",".join(METRICS))


def explain(cases: Sequence[Case], base: Side, head: Side, device: str) -> None:
    """Gives both sides of the slowest cases their metrics, and the others the reason why they have none."""
    few = (one for one in cases if one.head.counters.get("launches", 0) <= LAUNCHES)
    asked = sorted(few, key=lambda one: one.ratios[-1], reverse=True)[:MOST]
    reason = f"ncu was asked about the {MOST} slowest calls of at most {LAUNCHES} launches"
    old: list[dict[str, float]] = []
    new = old
    try:
        if asked:
            old, new = (read([one.workload for one in asked], side, device) for side in (base, head))
    except ValueError as error:
        asked, reason = [], f"ncu tells nothing: {error}"
    for one in cases:
        one.head = replace(one.head, unread="" if one in asked else reason)
    for one, was, now in zip(asked, old, new, strict=True):
        one.base, one.head = replace(one.base, metrics=was), replace(one.head, metrics=now)


def read(workloads: Sequence[Workload], side: Side, device: str) -> list[dict[str, float]]:
    """Reads the metrics of one call of each. Raises ValueError, in one line, where there is no ncu or it can't."""
    program = profile.find("ncu")
    if program is None:
        raise ValueError("it is not installed")
    command = [program, *ARGUMENTS, side.python, "-m", profile.__name__, device,
               *(json.dumps(asdict(w)) for w in workloads)]
    process = subprocess.Popen(command, cwd=side.folder, env=variables("base", side, device), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"no answer in {SECONDS:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    calls = parse(output)
    if process.returncode or len(calls) != len(workloads):
        raise ValueError(profile.reason(output))
    return calls


def parse(output: str) -> list[dict[str, float]]:
    """Reads what ncu prints: a row for each kernel, the first of a call being the mark. Anything else has no calls."""
    calls: list[list[Mapping[str, str]]] = [[]]
    rows = csv.DictReader((line for line in output.splitlines() if line.startswith('"')), restval="")
    if not {"ID", "Kernel Name"} <= {*(rows.fieldnames or ())}:
        return []
    for row in rows:
        if profile.MARK in row["Kernel Name"]:
            calls += [[]] if calls[-1] else []
        elif row["ID"]:  # without one it names the units
            calls[-1].append(row)
    return [_whole(call) for call in calls if call]


def _whole(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Sums the kernels of one call. What one of them does not tell is left out."""
    sums = {name: math.fsum(_number(row, metric) for row in rows) for name, metric in SUMS.items()}
    shares = {name: math.fsum(_number(row, metric) * _number(row, whole) for row in rows)
              / (math.fsum(_number(row, whole) for row in rows) or 1.0) for name, (metric, whole) in PERCENT.items()}
    return {name: value for name, value in (sums | shares).items() if math.isfinite(value)}


def _number(row: Mapping[str, str], metric: str) -> float:
    try:
        return float(row[metric].replace(",", ""))
    except (KeyError, ValueError):  # "n/a"
        return math.nan
