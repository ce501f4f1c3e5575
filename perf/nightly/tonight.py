"""What a night is asked to do, and what its steps know of it."""
from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.alerts.sets import Why
from perf.compare.record import Finding, Night
from perf.compare.record import load as load_night
from perf.nightly import process
from perf.nightly.folder import Folder
from perf.policy.accepted import accepted
from perf.policy.accepted import load as load_accepted

STATE = ("id", "clocks", "state", "unfit")  # what `python -m perf machine` prints beside the fingerprint


@dataclass(frozen=True)
class Options:
    """`budget` are seconds for pairs and bisection, `more` options of pytest that choose what is measured."""

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


@dataclass(frozen=True)
class Look:
    """What `python -m perf machine` said; `unfit` is why nothing can be measured now."""

    id: str
    fingerprint: Mapping[str, Any]
    unfit: str | None

    @property
    def device(self) -> str:
        """To measure on, unless another is asked for."""
        return "cuda" if self.fingerprint.get("gpus") else "cpu"


@dataclass(frozen=True)
class Tonight:
    root: Path
    options: Options
    folder: Folder
    head: str  # a full hash
    look: Look
    device: str
    lock: int | None = None

    @property
    def evidence(self) -> Path:
        """Of the first launch."""
        return self.evidence_of(1)

    def evidence_of(self, launch: int) -> Path:
        return self.folder.path / ("evidence.jsonl" if launch == 1 else f"evidence-{launch}.jsonl")

    @property
    def record(self) -> Path:
        """For alerts and the site."""
        return self.options.nights / f"{self.folder.path.name}.json"

    def run(self, name: str, *words: str, secrets: bool = False) -> int:
        """`python -m` these words, their output in the log of the step `name`; the exit status. Raises ValueError."""
        return process.run([sys.executable, "-m", *words], self.folder.log(name), root=self.root, lock=self.lock,
                           secrets=secrets)

    def last_line(self, name: str) -> str:
        return process.last_line(self.folder.log(name))

    def earlier(self) -> list[Night]:
        """The nights before, on this hardware and device, the newest first; what is no record is left out, as the site
        names it."""
        found = []
        for path in self.options.nights.glob("**/*.json"):
            night = _record(path, path.stat().st_mtime_ns)
            if night and night.time < self.folder.began and device_of(night) == self.device:
                found.append(night)
        hardware = Night(0.0, "", self.look.fingerprint, "", "", "", "").hardware
        return sorted((one for one in found if one.hardware == hardware), key=lambda one: one.time, reverse=True)


@functools.cache
def _record(path: Path, changed: int) -> Night | None:
    """Read once: several steps ask for years of them."""
    try:
        return load_night(path)
    except ValueError:
        return None


def chosen(device: str, options: Options) -> list[str]:
    """The options of pytest that say what is measured."""
    return [f"--perf-device={device}", f"--perf-grid={options.grid}", *options.more]


def command(device: str, options: Options, against: str | None) -> str:
    """What whoever hears of the night types: the same benchmarks, against the same commit."""
    base = [f"--perf-against={against}"] if against else []
    return shlex.join(["python", "-m", "pytest", "perf/", "--benchmark-only", *chosen(device, options), *base])


def device_of(night: Night) -> str | None:
    """By its command; None of a record that no night wrote."""
    return next((word.partition("=")[2] for word in asked(night) if word.startswith("--perf-device=")), None)


def asked(night: Night) -> list[str]:
    """The words of a night's command, whatever it was compared with."""
    try:
        return [word for word in shlex.split(night.command) if not word.startswith("--perf-against=")]
    except ValueError:
        return []


def look(text: str) -> Look:
    """Of what `python -m perf machine` printed. Raises ValueError for anything else."""
    told = json.loads(text)
    return Look(told["id"], {name: value for name, value in told.items() if name not in STATE}, told["unfit"])


def acceptance() -> Why:
    """Why a finding is accepted by perf/policy/accepted.toml; None where it is not."""
    entries, _ = load_accepted()

    def why(found: Finding) -> str | None:
        return accepted(entries, found.benchmark, found.since)

    return why


