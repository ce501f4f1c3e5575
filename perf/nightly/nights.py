"""A file beside a night's record holds what the nightly decision remembers of it (perf.verdict.nights.Measured)."""
from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.measure.evidence import Evidence
from perf.measure.machine import TOLD_ONLY
from perf.nightly.folder import write
from perf.verdict.nightly import Suspect, recorded
from perf.verdict.nights import Measured
from perf.verdict.verdict import Verdict

SUFFIX = ".measured"  # not .json: those are records


def of(commit: str, fingerprint: Mapping[str, Any], passes: Sequence[Mapping[str, Evidence]],
       controls: Mapping[str, Sequence[float]]) -> Measured:
    """`passes` are what each launch of the grid measured, by workload id; what one of the first two has not is left
    out. Pure."""
    first, second, *more = passes
    launches = {name: tuple(row.median or 0.0 for each in (first, second, *more) if (row := _good(each, name)))
                for name in first if _good(first, name) and _good(second, name)}
    within = {name: statistics.stdev(samples) / statistics.median(samples)
              for name in launches if len(samples := first[name].samples) > 1}
    environment = {name: value for name, value in fingerprint.items() if name not in TOLD_ONLY}
    return Measured(commit, environment, launches, within, dict(controls))


def taught(tonight: Measured, compared: Iterable[tuple[Suspect, Sequence[float], Verdict]],
           regressed: Iterable[str]) -> Measured:
    """What is kept of tonight. What regressed and is not accepted is no history to be held against, nor a commit to be
    compared with: it is left out, so that it is found again until it is repaired or accepted. Pure."""
    out = set(regressed)
    launches = {name: seconds for name, seconds in tonight.launches.items() if name not in out}
    within = {name: spread for name, spread in tonight.within.items() if name not in out}
    kept = Measured(tonight.commit, tonight.environment, launches, within, tonight.controls)
    return recorded(kept, [one for one in compared if one[0].benchmark not in out])


def save(path: Path, began: float, device: str, night: Measured) -> None:
    write(path, {"began": began, "device": device, "night": json.loads(night.to_json())})


def load(folder: Path, device: str, before: float) -> tuple[list[Measured], list[str]]:
    """Those of a device that began before a moment, the oldest first, and a line for each file that is none."""
    found: list[tuple[float, Measured]] = []
    problems = []
    for path in sorted(folder.glob(f"**/*{SUFFIX}")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["device"] == device and told["began"] < before:
                found.append((float(told["began"]), Measured.from_json(json.dumps(told["night"]))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: {str(error).splitlines()[0]}")
    return [night for _, night in sorted(found, key=lambda one: one[0])], problems


def _good(rows: Mapping[str, Evidence], name: str) -> Evidence | None:
    row = rows.get(name)
    return row if row is not None and row.outcome == "ok" and row.median and row.reason is None else None
