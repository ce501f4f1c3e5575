"""Evidence is the record that a measured workload leaves; a file of JSON lines holds the records.

The first line of a run describes the machine, a second one which part of a run it is, if it is one; every further one
is a measured workload, written as soon as it is known: a run that is killed loses nothing.

A mark beside the file names the row in flight. A call that crashes or leaves (a segmentation fault, os._exit, the
kernel's lack of memory) takes the process along, and the mark stays. --perf-resume goes on with that row once more, for
a kill from outside leaves the mark as well; when the process ended in one row twice, the row is recorded as failed, and
not tried again at that commit.
"""
from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from perf.system import files
from perf.workloads.workload import Workload, from_record

SCHEMA = 5
BEFORE = (1, 2, 3, 4)  # had fewer fields
OUTCOMES = ("ok", "wrong", "skipped", "failed", "invalid")
TRIES = 2
ENDED = (f"ended the process {TRIES} times: a crash, os._exit, or a lack of memory that the kernel ended; "
         "--perf-resume tries it no more at this commit")


@dataclass(frozen=True)
class Evidence:
    """Records one workload that was measured once. Times are seconds of one call, memory is bytes.

    Only an outcome of "ok" has samples; "invalid" was measured on an unfit machine, its reason says how.
    """

    workload: Workload
    outcome: str
    reason: str | None = None
    samples: tuple[float, ...] = ()
    median: float | None = None
    iqr: float | None = None
    interval: float | None = None  # half the width of the median's 95 % interval, relative to the median
    ended: str | None = None  # what ended the sampling: "precision" or "budget"
    rounds: int = 0
    iterations: int = 0
    clock: str | None = None
    no_graph: str | None = None  # why a GPU time is not one of CUDA-graph replay
    host: float | None = None  # seconds until the host has launched one call
    peak_bytes: int | None = None  # allocated during the call, or kept between calls
    kept_bytes: int | None = None  # the part of it that is kept between calls: weights, a mask
    reserved_bytes: int | None = None  # what the allocator took from the GPU for it
    rss_bytes: int | None = None  # the process's largest resident size during the call, on the CPU
    error: float | None = None  # of the worst tensor, relative to its rows
    bound: float | None = None  # what the error-ratio rule allows it
    loose: dict[str, str] = field(default_factory=dict)  # why a tensor is allowed more than a tenth of its rows
    flops: int | None = None
    bytes: int | None = None
    floor: float | None = None  # the least seconds that this machine's measured ceilings allow
    limit: str | None = None  # what sets the floor: "bytes" or "FLOPs"
    counters: dict[str, int] = field(default_factory=dict)  # free of noise: launches, graph breaks, ...
    kernels: dict[str, int] = field(default_factory=dict)  # device kernels (operators on a CPU) of one call
    kernel_shares: dict[str, float] = field(default_factory=dict)  # of the time of all of them, the largest first
    attention_share: float | None = None  # of that time, of a model that is not compiled
    compiled: dict[str, float] = field(default_factory=dict)  # "cold" and "warm" seconds of compilation
    quality: dict[str, Any] = field(default_factory=dict)  # of a trained model, so treated: perf/bench/quality.py
    state: dict[str, Any] = field(default_factory=dict)  # of the machine while the call was timed
    foreign_cores: float | None = None  # kept busy by other processes meanwhile
    machine: str = ""
    revision: str | None = None
    time: float = field(default_factory=time.time)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}; choose from {', '.join(OUTCOMES)}")

    def record(self) -> dict[str, Any]:
        return {"kind": "evidence", **asdict(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Evidence:
        """Reads a record. Raises KeyError, TypeError or ValueError for what is no evidence of this schema."""
        if record["schema"] not in (*BEFORE, SCHEMA):
            raise ValueError(f"schema {record['schema']}, this version reads 1 to {SCHEMA}")
        values = {f.name: record[f.name] for f in fields(cls) if f.name in record or record["schema"] == SCHEMA}
        values["workload"] = from_record(record["workload"])
        values["samples"] = tuple(record["samples"])
        row = cls(**values)
        files.check_types(row)
        if not 0 <= row.time < files.YEAR_10000:
            raise ValueError(f"time: not a time: {row.time!r}")
        return row


@dataclass(frozen=True)
class Shard:
    """Is one of `count` parts of a run, each measured on a machine of its own. `split` has the shard of every row of
    the whole run, by id, in the run's order."""

    index: int
    count: int
    machine: str
    revision: str
    options: Mapping[str, Any]
    split: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.index}/{self.count}"

    def record(self) -> dict[str, Any]:
        """Gives the line; its id is for readers that know machines only, and take it for one."""
        return {"kind": "shard", "schema": SCHEMA, "id": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Shard:
        """Reads a record. Raises KeyError, TypeError or ValueError for what is no shard."""
        shard = cls(**{f.name: record[f.name] for f in fields(cls)})
        files.check_types(shard)
        numbers = set(shard.split.values())
        if not 1 <= shard.index <= shard.count == len(numbers) or numbers != {*range(1, 1 + shard.count)}:
            raise ValueError(f"{record['id']!r} is no shard")
        return shard


class Writer:
    """Appends evidence to a file, after the record of the machine, and of the shard. Raises OSError where it can't."""

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path, self.shard = path, shard
        self._started = False

    def append(self, evidence: Evidence) -> None:
        from perf.measure import machine  # imports torch, which a reader of evidence need not wait for

        described = {"kind": "machine", "schema": SCHEMA, "id": machine.identity(), **machine.fingerprint()}
        first = [described, *([self.shard.record()] if self.shard else [])]
        files.append(self.path, *([] if self._started else first), evidence.record())
        self._started = True


def load(path: Path) -> list[Evidence]:
    """Reads the evidence in a file. Raises ValueError naming file and line of what is not evidence."""
    return [one for one in _read(path) if isinstance(one, Evidence)]


def machines(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the machines that a file's evidence names, by id. Raises as `load`."""
    return {one["id"]: one for one in _read(path) if isinstance(one, dict)}


def shards(path: Path) -> list[Shard]:
    """Reads which shards a file's runs are, one a run; runs that are none have none. Raises as `load`."""
    return [one for one in _read(path) if isinstance(one, Shard)]


def row_seconds(path: Path) -> dict[str, float]:
    """Reads how long the rows of a file took, by id: the time since the row before; not known of a run's first.
    Raises as `load`."""
    seconds, before = {}, None
    for one in _read(path):
        if isinstance(one, Evidence):
            if before is not None and one.time >= before:  # a clock may be set back
                seconds[one.workload.id] = one.time - before
            before = one.time
        else:
            before = None
    return seconds


def _read(path: Path) -> Iterator[Evidence | Shard | dict[str, Any]]:
    broken: list[tuple[int, Exception]] = []
    for number, record in files.read(path):
        try:
            if isinstance(record, ValueError):
                raise record
            if record["kind"] == "evidence":
                yield Evidence.from_dict(record)
            elif record["kind"] == "shard":
                yield Shard.from_dict(record)
            elif not isinstance(record["id"], str):
                raise TypeError(f"{record['id']!r} is no machine's id")
            else:
                yield record
        except (KeyError, TypeError, ValueError) as error:
            broken.append((number, error))
    if broken:
        (first, reason), others = broken[0], ", ".join(str(number) for number, _ in broken[1:])
        what = f"delete the line, and lines {others}, which are none either" if others else "delete the line"
        raise ValueError(f"{path}:{first}: not evidence: {reason}; {what}") from reason


class Flight:
    """Holds the mark of an evidence file. `fatal` is the id of the row that ended the process too often, if one did."""

    def __init__(self, evidence: Path) -> None:
        self.path = mark(evidence)
        self._row, self._tries = self._read()

    @property
    def fatal(self) -> str | None:
        return self._row if self._tries >= TRIES else None

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Marks the row while it is measured."""
        tries = 1 + (self._tries if name == self._row else 0)
        files.write(self.path, json.dumps([name, *_here(), tries]))
        try:
            yield
        finally:
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[str | None, int]:
        """Reads what the last run left: a row of this machine and commit, and how often it ended the process."""
        try:
            name, where, revision, tries = files.from_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None, 0
        return (str(name), tries) if (where, revision) == _here() and isinstance(tries, int) else (None, 0)


def _here() -> tuple[str, str | None]:
    """Gives this machine's id, and the commit."""
    from perf.measure import machine

    return machine.identity(), machine.revision()


def mark(evidence: Path) -> Path:
    """Names the file that marks the row in flight."""
    return evidence.with_name(f"{evidence.name}.row")


def ends_process(row: Evidence) -> bool:
    """Tells whether a row was recorded because it ended the process too often."""
    return row.outcome == "failed" and row.reason == ENDED
