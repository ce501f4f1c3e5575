"""A night: its options, its machine, its folder, and the nights before it."""
from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from perf.alerts import sets
from perf.alerts.sets import Why
from perf.compare.project import project
from perf.compare.record import Comparison, load
from perf.nightly import process
from perf.nightly.steps import Folder
from perf.policy import accepted, here
from perf.system import files
from perf.system.tools import ending

STATE = ("id", "clocks", "state", "unfit")  # what `python -m perf machine` prints beside the fingerprint


@dataclass(frozen=True)
class Options:
    """`budget` are seconds for pairs and bisection, `more` options of pytest that choose what is measured, `measured`
    the evidence of tonight's launches, as far as shards have measured them elsewhere."""

    device: str | None
    grid: str
    results: Path
    nights: Path  # the records
    work: Path  # the nights' folders
    budget: float
    repository: str | None
    last_good: str | None
    tests: bool = True
    alert: bool = True
    site: bool = True
    more: tuple[str, ...] = ()
    measured: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Is the machine as `python -m perf machine` prints it; `unfit` is why nothing can be measured now."""

    id: str
    fingerprint: Mapping[str, Any]
    unfit: str | None

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads what `python -m perf machine` printed. Raises ValueError, KeyError or TypeError for anything else."""
        record = dict(files.from_json(text))
        fingerprint = {name: value for name, value in record.items() if name not in STATE}
        return cls(record["id"], fingerprint, record["unfit"])

    @property
    def device(self) -> str:
        """Names the device to measure on, unless the options name another."""
        return "cuda" if self.fingerprint.get("gpus") else "cpu"


@dataclass(frozen=True)
class Night:
    """Is one night of one commit, as its steps see it; `lock` is the file descriptor that processes inherit."""

    root: Path
    options: Options
    folder: Folder
    head: str  # a full hash
    machine: Machine
    device: str
    lock: int | None = None

    @property
    def evidence(self) -> Path:
        """Names the file of evidence of the first launch."""
        return self.evidence_of(1)

    def evidence_of(self, launch: int) -> Path:
        return self.folder.path / ("evidence.jsonl" if launch == 1 else f"evidence-{launch}.jsonl")

    @property
    def record(self) -> Path:
        """Names the record that alerts and the site read."""
        return self.options.nights / f"{self.folder.path.name}.json"

    def run(self, name: str, *words: str, secrets: bool = False) -> int:
        """Runs `python -m WORDS`, its output in the log of the step `name`, and returns its exit status.

        Raises ValueError if it hangs.
        """
        return process.run([sys.executable, "-m", *words], self.folder.log(name), root=self.root, lock=self.lock,
                           secrets=secrets)

    def demand(self, name: str, *words: str) -> None:
        """Does as `run`, and raises ValueError, in one line, for an exit status other than 0."""
        self.allow(name, self.run(name, *words), (0,))

    def allow(self, name: str, code: int, allowed: Collection[int]) -> None:
        """Raises ValueError, in one line, for an exit status that is not `allowed`."""
        if code not in allowed:
            raise ValueError(f"{ending(code)}: {self.last_line(name)}; {self.folder.log(name)}")

    def last_line(self, name: str) -> str:
        return process.last_line(self.folder.log(name))

    def earlier(self) -> list[Comparison]:
        """Returns the nights before on this hardware and device, the newest first. A file that is no record is left
        out; the site names it."""
        records = (_record(path, path.stat().st_mtime_ns) for path in self.options.nights.glob("**/*.json"))
        hardware = Comparison(0.0, "", self.machine.fingerprint, "", "", "", "").hardware
        return sorted((one for one in records if one and one.time < self.folder.start and one.hardware == hardware
                       and device_of(one) == self.device), key=lambda one: one.time, reverse=True)


@functools.cache
def _record(path: Path, changed: int) -> Comparison | None:
    """Reads a record once: several steps ask for years of them."""
    try:
        return load(path)
    except ValueError:
        return None


def selection(device: str, options: Options) -> list[str]:
    """Returns the options of pytest that say what is measured."""
    return [f"--perf-device={device}", f"--perf-grid={options.grid}", *options.more]


def command(root: Path, device: str, options: Options, against: str | None) -> str:
    """Returns the command that measures the same benchmarks against the same commit, for whoever reads of the night."""
    base = [f"--perf-against={against}"] if against else []
    return shlex.join(["python", "-m", "pytest", *project(root).benchmarks, "--benchmark-only",
                       *selection(device, options), *base])


def device_of(comparison: Comparison) -> str | None:
    """Returns the device that the command names; None if no night wrote the record."""
    return next((word.partition("=")[2] for word in words(comparison.command) if word.startswith("--perf-device=")),
                None)


def words(command: str) -> list[str]:
    """Splits a night's command, and leaves out what it was compared with."""
    try:
        return [word for word in shlex.split(command) if not word.startswith("--perf-against=")]
    except ValueError:
        return []


def acceptance() -> Why:
    """Returns the rule of accepted.toml: why a finding is accepted, or None."""
    return sets.acceptance(accepted.load(here(accepted.FILE))[0])
