"""The record that a measured workload leaves, and the file of JSON lines that holds the records.

The first line of a run describes the machine, every further one is a measured workload, written as
soon as it is known: a run that is killed loses nothing.
"""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from perf.cells import Workload
from perf.measure import machine

SCHEMA = 1
OUTCOMES = ("ok", "wrong", "skipped", "failed")


@dataclass(frozen=True)
class Evidence:
    """One workload measured once. Times are seconds of one call, memory is bytes.

    `error` is the largest absolute error of the worst tensor, `bound` what the error-ratio rule
    allows it. `foreign_cores` were kept busy by other processes meanwhile. Only an outcome of "ok"
    has samples.
    """

    workload: Workload
    outcome: str
    reason: str | None = None
    samples: tuple[float, ...] = ()
    median: float | None = None
    iqr: float | None = None
    rounds: int = 0
    iterations: int = 0
    clock: str | None = None
    peak_bytes: int | None = None
    error: float | None = None
    bound: float | None = None
    flops: int | None = None
    bytes: int | None = None
    foreign_cores: float | None = None
    machine: str = ""
    revision: str | None = None
    time: float = field(default_factory=time.time)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}; choose from {', '.join(OUTCOMES)}")

    def to_json(self) -> str:
        return json.dumps({"kind": "evidence", **asdict(self)})

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Evidence:
        """Raises KeyError, TypeError or ValueError for what is no evidence of this schema."""
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}, this version reads {SCHEMA}")
        known = {f.name: record[f.name] for f in fields(cls)}
        known["workload"] = Workload(**record["workload"])
        known["samples"] = tuple(record["samples"])
        return cls(**known)


class Writer:
    """Appends evidence to a file, after the record of the machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = False

    def append(self, evidence: Evidence) -> None:
        if not self._started:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            described = {"kind": "machine", "schema": SCHEMA, "id": machine.identity(), **machine.fingerprint()}
            # A killed run may have left half a line: it must not swallow this one.
            self._write(("" if _ends_with_newline(self.path) else "\n") + json.dumps(described))
            self._started = True
        self._write(evidence.to_json())

    def _write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _ends_with_newline(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def load(path: Path) -> list[Evidence]:
    """The evidence in a file. Raises ValueError naming file and line of what is not evidence."""
    return [Evidence.from_dict(record) for record in _checked(path) if record["kind"] == "evidence"]


def machines(path: Path) -> dict[str, dict[str, Any]]:
    """The machines that a file's evidence names, by id. Raises as `load`."""
    return {record["id"]: record for record in _checked(path) if record["kind"] == "machine"}


def _checked(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if record["kind"] == "evidence":
                    Evidence.from_dict(record)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: not evidence: {error}; delete the line") from error
            yield record
