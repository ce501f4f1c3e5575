"""`pytest perf/ --benchmark-only -n 2` measures on two GPUs at once: a process on each takes a shard of the run.

pytest-xdist's workers time nothing, so none is started: `-n` is taken from it. Before the first test one child a GPU,
by its UUID, measures its shard (perf/run/shard.py: a comparison group stays whole). This run then plays all rows as its
own, so there is one table, one JSON and one file of evidence, and measures what a child has not: what failed, and what
one that died has left, on the first place whose child did not end so. On a CPU the children share no core. With
`--perf-against` the rows are verdicts; those of an unfit machine are measured again.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from perf.compare import record
from perf.compare.process import ITS_WORKER
from perf.measure.evidence import Evidence, Writer, load
from perf.run import options, shard
from perf.run.items import workload_of
from perf.run.options import Settings
from perf.system import exit_codes
from perf.system.tools import ending, last_line

ENDED = (exit_codes.OK, exit_codes.FAILED, exit_codes.UNFIT, exit_codes.UNDECIDED)
OWN = ("history", "history_dirty", "report", "resume")  # of this run alone


@dataclass(frozen=True)
class Place:
    """Is where a child measures: a GPU by its UUID, or some cores."""

    name: str
    variables: Mapping[str, str]
    cores: frozenset[int]


def install(config: pytest.Config, settings: Callable[[], Settings]) -> None:
    """Takes -n from pytest-xdist."""
    count, config.option.numprocesses, config.option.dist, config.option.tx = config.option.numprocesses, None, "no", []
    if count > 1:
        config.pluginmanager.register(Workers(config, settings, count), "perf_workers")


class Workers:
    """Hooks into pytest: starts the children before the first test, and keeps their `rows` that are good, by id."""

    def __init__(self, config: pytest.Config, settings: Callable[[], Settings], count: int) -> None:
        self.config, self.settings, self.count = config, settings, count
        self.rows: dict[str, Evidence] = {}
        self.places: list[Place] = []

    def take_place(self, settings: Settings) -> None:
        """Finds the places, and holds this process to one of them. Raises pytest.UsageError where there are too few."""
        self.places = self.places or list(self._places(settings))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        workloads = [w for item in session.items if (w := workload_of(item))]
        if not workloads:
            return
        settings, groups = self.settings(), len(shard.groups(workloads))
        against = self.config.pluginmanager.get_plugin("perf_against")
        folder = settings.evidence.parent / "workers"
        shutil.rmtree(folder, ignore_errors=True)
        if not against:
            shard.committed("-n")
        self.take_place(settings)
        places, name = self.places[:groups], "verdicts.json" if against else "evidence.jsonl"
        files = [folder / str(number) / name for number in range(1, len(places) + 1)]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for place, file in zip(places, files, strict=True):
                children.append(self._start(place, file, f"{len(children) + 1}/{len(places)}", settings))
            sound = [place for place, file, child in zip(places, files, children, strict=True)
                     if self._sound(place, file, child.wait())]
        finally:
            for child in children:
                child.kill()
        _keep_to((sound or places)[0])  # what is left is measured there
        for place, file in zip(places, files, strict=True):
            if against and file.exists():
                against.take(file, place in sound)
            elif file.exists():
                self._take(file, Writer(settings.evidence))

    def _places(self, settings: Settings) -> Iterator[Place]:
        """Yields one place a child. Raises pytest.UsageError where there are fewer."""
        if settings.device.type == "cuda":
            if settings.device.index is not None:
                raise pytest.UsageError(f"-n {self.count}: takes a GPU for each; drop --perf-device={settings.device}")
            gpus = _gpus()[:self.count]
            places = [Place(gpu, {"CUDA_VISIBLE_DEVICES": gpu}, frozenset()) for gpu in gpus]
        else:
            cores = sorted(os.sched_getaffinity(0))
            share = len(cores) // self.count
            groups = [cores[at:at + share] for at in range(0, share * self.count, share)] if share else []
            places = [Place(f"cores {','.join(map(str, some))}", {}, frozenset(some)) for some in groups]
            if places:
                _keep_to(places[0])
        if len(places) < self.count:
            raise pytest.UsageError(f"-n {self.count}: there are not as many GPUs, or cores of a CPU, here; give fewer")
        yield from places

    def _start(self, place: Place, file: Path, part: str, settings: Settings) -> subprocess.Popen[bytes]:
        file.parent.mkdir(parents=True)
        named = self.config.args if self.config.args_source is pytest.Config.ArgsSource.ARGS else []
        keywords = ["-k", self.config.option.keyword] if self.config.option.keyword else []
        results = {"verdicts": str(file)} if settings.compares else {"evidence": str(file), "unfit": settings.unfit}
        words = [sys.executable, "-m", "pytest", *named, "--benchmark-only", "-q", "-p", "no:cacheprovider", *keywords,
                 *options.command_options(self.config, but=OWN, shard=part, **results)]
        self._say(f"{part} on {place.name}")
        with file.with_name("log.txt").open("wb") as log:
            return subprocess.Popen(words, cwd=self.config.invocation_params.dir, env={**os.environ, **place.variables},
                                    stdout=log, stderr=subprocess.STDOUT,
                                    preexec_fn=partial(os.sched_setaffinity, 0, place.cores) if place.cores else None)

    def _sound(self, place: Place, file: Path, code: int) -> bool:
        """Tells whether a place still measures, as far as its child shows: it did not die, and the last row did not
        fail, as every row does on a GPU that is lost. Says what a child died of."""
        if code not in ENDED:
            last = last_line(file.with_name("log.txt").read_text(encoding="utf-8", errors="replace"), "it said nothing")
            self._say(f"{place.name}: {ending(code)}: {last}; this run measures what it left")
            return False
        if not file.exists():
            return True
        lost = ([row.outcome == "failed" for row in load(file)] if file.suffix == ".jsonl" else
                [ITS_WORKER in finding.why for finding in record.load(file).findings])
        return not lost or not lost[-1]

    def _take(self, file: Path, writer: Writer) -> None:
        """Keeps what a child has measured. What it has not, this run measures."""
        for row in load(file):
            if row.outcome == "ok":
                self.rows[row.workload.id] = row
                writer.append(row)

    def _say(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter:
            reporter.write_line(f"perf: {line}")


def _gpus() -> Sequence[str]:
    """Lists the UUIDs of the GPUs that this process may use."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            return visible.split(",")
        return subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True,
                              text=True, check=True).stdout.split()
    return []


def _keep_to(place: Place) -> None:
    """Holds this process to a place, as a child is held: what it measures is of the same machine then. A process that
    has asked CUDA for a device stays on its GPU."""
    import torch

    os.environ.update(place.variables)
    if place.cores:
        os.sched_setaffinity(0, place.cores)
        torch.set_num_threads(min(torch.get_num_threads(), len(place.cores)))
