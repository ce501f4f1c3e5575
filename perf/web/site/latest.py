"""Reads the last figures of every workload on every machine and its versions as evidence, and derives others."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from perf.measure.evidence import Evidence
from perf.system import files
from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from perf.history.rows import Entry, History

NOT_VERSIONS = ("machine", "branch", "arch", "cpu", "num_cpu", "os", "ram", "gpu", "threads", "governor", "ecc",
                "power_limit", "clocks_locked_mhz")


@dataclass(frozen=True)
class Place:
    """Is a machine with certain versions, on which one line of the history was measured.

    `properties` is what asv tells series apart by; `hardware` the GPU's name, or the CPU's.
    """

    machine: str
    environment: str
    hardware: str
    versions: str
    properties: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True)
class Latest:
    """Is a workload at a place: its last time as evidence, and its lines by asv's figure, the oldest value first."""

    place: Place
    evidence: Evidence
    lines: Mapping[str, Sequence[Entry]]

    @property
    def workload(self) -> Workload:
        """Returns the workload that was measured."""
        return self.evidence.workload

    def value(self, figure: str) -> float | None:
        """Returns the last value of a figure; None if it was measured at an earlier commit than the time, or never."""
        line = self.lines.get(figure, ())
        return line[-1].value if line and line[-1].commit == self.evidence.revision else None


def latest(history: History, places: Mapping[tuple[str, str], Place]) -> list[Latest]:
    """Reads the last figures of each workload that was timed, at each machine and environment in `places`."""
    lines_by_workload: dict[tuple[str, str, Workload], dict[str, Sequence[Entry]]] = {}
    for (machine, environment, workload, figure), line in history.lines.items():
        if (machine, environment) in places:
            lines_by_workload.setdefault((machine, environment, workload), {})[figure] = line
    return [Latest(places[machine, environment], _evidence(workload, lines["time_call"][-1], lines), lines)
            for (machine, environment, workload), lines in lines_by_workload.items() if "time_call" in lines]


def _evidence(w: Workload, timed: Entry, lines: Mapping[str, Sequence[Entry]]) -> Evidence:
    def figure(name: str) -> float | None:
        return next((row.value for row in lines.get(name, ()) if row.commit == timed.commit), None)

    wide = None if timed.interval is None else (timed.interval[1] - timed.interval[0]) / 2 / timed.value
    peak, launches = figure("track_peak_bytes"), figure("track_launches")
    return Evidence(w, "ok", median=timed.value, interval=wide if wide is not None and wide < 1 else None,
                    peak_bytes=None if peak is None else int(peak), flops=flops(w), host=figure("track_host_time"),
                    counters={} if launches is None else {"launches": int(launches)}, machine=timed.machine,
                    revision=timed.commit, time=timed.measured or timed.date)


def flops(w: Workload) -> int | None:
    """Counts the FLOPs of one call; None where they can't be counted, as for a function or model that this revision
    lacks."""
    try:
        return w.flops
    except (KeyError, ValueError, TypeError):
        return None


def places(results: Path, history: History, most: int = 2) -> dict[tuple[str, str], Place]:
    """Finds the last `most` environments of each machine of the history, by machine and environment; GPUs first, and
    of each kind the newest."""
    newest: dict[tuple[str, str], Entry] = {}
    for row in history.rows:
        if not row.dirty:
            newest[row.machine, row.environment] = row
    newest_places: dict[tuple[str, str], Place] = {}
    count: dict[str, int] = {}
    for key, row in sorted(newest.items(), key=lambda item: item[1].measured or item[1].date, reverse=True):
        count[row.machine] = count.get(row.machine, 0) + 1
        if count[row.machine] <= most:
            newest_places[key] = _place(results, row)
    return dict(sorted(newest_places.items(), key=lambda place: "gpu" not in place[1].properties))


def _place(results: Path, row: Entry) -> Place:
    from asv.results import get_filename

    path = results / get_filename(row.machine, row.commit, row.environment)
    record = files.from_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    properties = {name: str(value) for name, value in record.get("params", {}).items()}
    properties |= {f"env-{name}": str(value) for name, value in record.get("env_vars", {}).items()}
    return Place(row.machine, row.environment, properties.get("gpu") or properties.get("cpu") or row.machine,
                 _versions(properties) or row.environment, properties)


def _versions(properties: Mapping[str, str]) -> str:
    """Writes "torch 2.11.0, python 3.12"; torch is first."""
    names: Iterable[str] = sorted((name for name in properties if name not in NOT_VERSIONS),
                                 key=lambda name: (name != "torch", name == "python", name))
    return ", ".join(f"{name} {properties[name]}".strip() for name in names if properties[name])
