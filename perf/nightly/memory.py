"""A file beside a night's record, with what the nightly decision remembers of it (perf.verdict.nights.Measurement)."""
from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.measure.evidence import Evidence
from perf.measure.machine import NO_INFLUENCE
from perf.nightly.steps import write
from perf.system import files
from perf.system.tools import first_line
from perf.verdict.nightly import Suspect, with_lessons
from perf.verdict.nights import Measurement
from perf.verdict.verdict import Verdict

SUFFIX = ".measured"  # not .json: those are records


def measurement(commit: str, fingerprint: Mapping[str, Any], passes: Sequence[Mapping[str, Evidence]],
                controls: Mapping[str, Sequence[float]]) -> Measurement:
    """Gathers what each launch of the grid measured: `passes` by workload id. What one of the first two lacks is left
    out. Pure."""
    first, second, *more = passes
    launches = {name: tuple(row.median or 0.0 for each in (first, second, *more) if (row := _good(each, name)))
                for name in first if _good(first, name) and _good(second, name)}
    within = {name: statistics.stdev(samples) / statistics.median(samples)
              for name in launches if len(samples := first[name].samples) > 1}
    environment = {name: value for name, value in fingerprint.items() if name not in NO_INFLUENCE}
    return Measurement(commit, environment, launches, within, dict(controls))


def lesson(measurement: Measurement, pairs: Iterable[tuple[Suspect, Sequence[float], Verdict]],
           regressions: Iterable[str]) -> Measurement:
    """Returns what later nights learn from tonight's measurement and its pairs.

    A regression that is not accepted is left out: it is no history to hold others against, nor a commit to compare
    with, so it is found again until it is repaired or accepted. Pure.
    """
    out = set(regressions)
    launches = {name: seconds for name, seconds in measurement.launches.items() if name not in out}
    within = {name: spread for name, spread in measurement.within.items() if name not in out}
    rest = Measurement(measurement.commit, measurement.environment, launches, within, measurement.controls)
    return with_lessons(rest, [pair for pair in pairs if pair[0].benchmark not in out])


def save(path: Path, start: float, device: str, measurement: Measurement) -> None:
    """Writes what later nights remember of this one."""
    write(path, {"began": start, "device": device, "night": json.loads(measurement.to_json())})


def load(folder: Path, device: str, before: float) -> tuple[list[Measurement], list[str]]:
    """Reads the measurements of nights that began before a moment, on a device: the oldest first, and a line for each
    file that is none."""
    nights: list[tuple[float, Measurement]] = []
    problems = []
    for path in sorted(folder.glob(f"**/*{SUFFIX}")):
        try:
            record = files.from_json(path.read_text(encoding="utf-8"))
            if record["device"] == device and record["began"] < before:
                nights.append((float(record["began"]), Measurement.from_json(json.dumps(record["night"]))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: {first_line(error)}")
    return [measurement for _, measurement in sorted(nights, key=lambda one: one[0])], problems


def _good(rows: Mapping[str, Evidence], name: str) -> Evidence | None:
    row = rows.get(name)
    return row if row is not None and row.outcome == "ok" and row.median and row.reason is None else None
