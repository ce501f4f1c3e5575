"""What a night is asked to do, and what its steps know of it."""
from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.decide.accepted import accepted
from perf.decide.accepted import load as load_accepted
from perf.nightly import process
from perf.nightly.folder import Folder
from perf.track.alerts.sets import Why
from perf.track.night import Finding, Night
from perf.track.night import load as load_night

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
    def command(self) -> str:
        """What measures the same again, whatever the time."""
        return shlex.join(["python", "-m", "perf", "nightly", *chosen(self.device, self.options)])

    @property
    def evidence(self) -> Path:
        return self.folder.path / "evidence.jsonl"

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
            try:
                night = load_night(path)
            except ValueError:
                continue
            if night.time < self.folder.began and device_of(night) == self.device:
                found.append(night)
        hardware = Night(0.0, "", self.look.fingerprint, "", "", "", "").hardware
        return sorted((one for one in found if one.hardware == hardware), key=lambda one: one.time, reverse=True)


def chosen(device: str, options: Options) -> list[str]:
    """The options that say what is measured."""
    return [f"--device={device}", f"--grid={options.grid}", *(["--", *options.more] if options.more else [])]


def device_of(night: Night) -> str | None:
    """By its command, as `Tonight.command` writes it; None of a record that no night wrote."""
    try:
        words = shlex.split(night.command)
    except ValueError:
        return None
    return next((word.partition("=")[2] for word in words if word.startswith("--device=")), None)


def look(text: str) -> Look:
    """Of what `python -m perf machine` printed. Raises ValueError for anything else."""
    told = json.loads(text)
    return Look(told["id"], {name: value for name, value in told.items() if name not in STATE}, told["unfit"])


def acceptance() -> Why:
    """Why a finding is accepted by perf/decide/accepted.toml; None where it is not."""
    entries, _ = load_accepted()

    def why(found: Finding) -> str | None:
        return accepted(entries, found.benchmark, found.since)

    return why


