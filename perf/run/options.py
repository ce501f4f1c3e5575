"""The options of `pytest perf/` have names, ini twins and checks."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perf.run.axis_options import AXES, flag, one_of, values
from perf.run.hanging import LEAST, TIMES, UNKNOWN
from perf.system import devices
from perf.workloads.workload import GRIDS

if TYPE_CHECKING:
    import torch

    from perf.workloads.workload import Workload

EVIDENCE = ".perf/evidence.jsonl"
OTHERS = {
    "device": devices.HELP,
    "grid": f"how much to measure: {', '.join(GRIDS)} (default: default)",
    "precision": "stop sampling when the median's 95 %% interval is within this (default: 0.2 %% on a GPU, else 1 %%)",
    "case_timeout": f"seconds after which a row is taken to hang and ended (default: {TIMES:g} times what it took here "
                    f"before, and at least {LEAST:g}; {UNKNOWN:g} where that is not known)",
    "unfit": "what becomes of a row measured on an unfit machine: keep it with a mark, or fail it as invalid (default: "
             "keep; invalid where the number is kept or decides: with --perf-history, and in CI)",
    "profile": "profile the one selected workload with torch, ncu or nsys instead of timing it",
    "report": "file that a page of the results is written to, HTML",
    "evidence": f"file that evidence is appended to (default: {EVIDENCE})",
    "shard": "i/n: measure the i-th of n parts of the run; python -m perf merge puts the evidence of all together, or "
             "the verdicts, with --perf-against",
    "shard_seconds": "with --perf-shard: evidence of an earlier run; the parts are even by the seconds of its rows",
    "history": "write the evidence as asv results too, into FOLDER (default: the results_dir of asv.conf.json)",
    "against": "git revision to compare with: the working tree's attention/ and models/ against its",
    "against_python": "another interpreter to compare with: the same code there",
    "against_versions": "other versions to compare with, such as 'torch==2.10.*': the same code, and these installed "
                        "over this environment",
    "verdicts": "with --perf-against: file that the verdicts are written to, JSON (python -m perf alert reads it)",
}
SWITCHES = {
    "history_dirty": "with --perf-history: of a tree with uncommitted changes as well, as a series of its own",
    "quality": "measure what quantising costs in quality, on presets trained for it (a minute each, once)",
    "shapes": "add the shapes of real models",
    "resume": "measure only what the evidence file lacks of this commit on this machine",
    "all": "with --perf-against: time what has the same sources on both sides as well",
    "lenient": "with --perf-against: what is inconclusive, invalid or missing passes, instead of exit code 11",
}
PRECISION = {"cuda": 0.002, "cpu": 0.01}
PROFILERS = ("torch", "ncu", "nsys")
UNFIT = ("invalid", "keep")
SINGLE = ("profile", "resume", "report", "precision", "case_timeout", "unfit", "evidence", "history",
          "quality", "shard_seconds")  # of a run of one revision
COMPARED = ("against", "against_python", "against_versions")  # each makes a run one that compares
PAIRED = ("all", "lenient", "verdicts")  # of one that compares two


@dataclass(frozen=True)
class Settings:
    """Holds what a run is asked to measure."""

    device: torch.device
    grid: str
    workloads: list[Workload]
    evidence: Path
    precision: float = 0.01
    unfit: str = "keep"
    profile: str | None = None
    report: Path | None = None
    resume: bool = False
    against: str | None = None
    against_python: str | None = None
    against_versions: tuple[str, ...] = ()
    all: bool = False
    lenient: bool = False
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # what was asked for: field -> values
    shapes: bool = False
    history: Path | None = None  # folder of asv's results
    history_dirty: bool = False
    verdicts: Path | None = None
    quality: bool = False
    case_timeout: float | None = None  # seconds; None: by what the row took before
    shard: tuple[int, int] | None = None  # its number from 1, and how many there are
    shard_seconds: Path | None = None

    @property
    def compares(self) -> bool:
        """Tells whether the run compares two sides."""
        return bool(self.against is not None or self.against_python or self.against_versions)


def add(parser: pytest.Parser) -> None:
    """Adds each option as --perf-name and, for the ini file, perf_name."""
    group = parser.getgroup("perf", "performance of attention and models")
    for name, (_, text) in AXES.items():
        group.addoption(flag(name), metavar="LIST", help=f"comma-separated {text}")
        parser.addini(f"perf_{name}", f"as {flag(name)}")
    for name, text in OTHERS.items():
        optional = {"nargs": "?", "const": "", "metavar": "FOLDER"} if name == "history" else {"metavar": name.upper()}
        group.addoption(flag(name), help=text, **optional)
        parser.addini(f"perf_{name}", f"as {flag(name)}")
    for name, text in SWITCHES.items():
        group.addoption(flag(name), action="store_true", default=None, help=text)
        parser.addini(f"perf_{name}", f"as {flag(name)}", type="bool", default=False)
    parser.addini("perf_packages", "folders of your own packages, relative to the ini file: their commits are compared")
    parser.addini("perf_build", "command that builds them from a commit into {out}")
    parser.addini("perf_build_seconds", "seconds that it may take (default: 1800)")


def value(config: pytest.Config, name: str) -> Any:
    """Reads an option from the command line, else from the ini file; None if from neither."""
    value = config.getoption(f"perf_{name}")
    return value if value is not None else (config.getini(f"perf_{name}") or None)


def command_options(config: pytest.Config, *, but: Sequence[str] = (), **instead: str) -> list[str]:
    """Writes the options that the command line has, each as a word of a command; some left out, some with another
    value."""
    words = []
    for name in (*AXES, *OTHERS, *SWITCHES):
        value = instead.get(name, config.getoption(f"perf_{name}"))
        if value is not None and name not in but:
            words.append(flag(name) if value is True else f"{flag(name)}={value}")
    return words


def any_value(config: pytest.Config) -> bool:
    return any(value(config, name) is not None for name in (*AXES, *OTHERS, *SWITCHES))


def several(config: pytest.Config) -> bool:
    """Tells whether -n is for benchmarks; other runs are pytest-xdist's, or refuse it."""
    return bool(getattr(config.option, "numprocesses", None) and config.getoption("benchmark_only", False)
                and not config.option.collectonly
                and all(value(config, name) is None for name in ("shard", "profile")))


def settings(config: pytest.Config) -> Settings:
    """Checks the options. Raises pytest.UsageError, in one line that names the choices."""
    from perf.workloads import axes

    against = _against(config)
    device = _device(config)
    grid = value(config, "grid") or "default"
    one_of("grid", grid, GRIDS)
    explicit = {AXES[name][0]: values(name, text) for name in AXES if (text := value(config, name)) is not None}
    switches: dict[str, Any] = {name: bool(value(config, name)) for name in SWITCHES}
    try:
        chosen = axes.select(grid, device.type, explicit, with_shapes=switches["shapes"])
    except ValueError as error:
        raise pytest.UsageError(f"perf: {error}") from None
    if (profile := value(config, "profile")) is not None:
        one_of("profile", profile, PROFILERS)
    history = _history(config)
    decides = history is not None or bool(os.environ.get("CI"))
    unfit = one_of("unfit", value(config, "unfit") or ("invalid" if decides else "keep"), UNFIT)
    precision = _precision(value(config, "precision"), device.type)
    return Settings(device, grid, chosen, _file(config, "evidence", EVIDENCE), precision, unfit, profile,
                    _file(config, "report", None), axes=explicit, history=history,
                    verdicts=_file(config, "verdicts", None), case_timeout=_seconds(value(config, "case_timeout")),
                    **switches, **against, **_shard(config))


def _against(config: pytest.Config) -> dict[str, Any]:
    """Reads what to compare with. Raises pytest.UsageError for options of the other kind of run; the ini file's are for
    when they apply."""
    revision, python, versions = (value(config, name) for name in COMPARED)
    if python and versions:
        raise pytest.UsageError("--perf-against-python: has its own versions; drop --perf-against-versions")
    alone = revision is python is versions is None
    for name in PAIRED if alone else SINGLE:
        if config.getoption(f"perf_{name}"):
            raise pytest.UsageError(
                f"{flag(name)}: says how --perf-against compares; give it a revision, such as main"
                if alone else f"--perf-against: doesn't go together with {flag(name)}, which is of a run "
                                         "that measures one revision; drop one of them")
    return {"against": revision, "against_python": python,
            "against_versions": tuple((versions or "").split())}


def _shard(config: pytest.Config) -> dict[str, Any]:
    text, seconds = value(config, "shard"), _file(config, "shard_seconds", None)
    if text is None:
        if config.getoption("perf_shard_seconds"):  # the ini file's is for when the run is split
            raise pytest.UsageError("--perf-shard-seconds: says how --perf-shard splits; give it i/n, such as 1/3")
        return {}
    numbers = [int(word) if word.isascii() and word.isdigit() else 0 for word in text.split("/")]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        raise pytest.UsageError(f"--perf-shard: {text!r} is no part of a run; give i/n, such as 1/3 to 3/3")
    return {"shard": tuple(numbers), "shard_seconds": seconds}


def _history(config: pytest.Config) -> Path | None:
    """Gives the folder of asv's results, where what is measured now may go there."""
    if (option := value(config, "history")) is None:
        return None
    try:
        from perf.history import destination

        dirty = bool(value(config, "history_dirty"))
        base = config.rootpath if config.getoption("perf_history") is None else config.invocation_params.dir
        return destination.folder(base / option if option else None, config.rootpath, dirty=dirty)
    except ImportError:
        raise pytest.UsageError("--perf-history: asv is not installed, which reads and writes the history; "
                                "pip install 'attention-perf[site]'") from None
    except ValueError as error:
        raise pytest.UsageError(f"--perf-history: {error}") from None


def _precision(text: str | None, device_type: str) -> float:
    if text is None:
        return PRECISION[device_type]
    number, percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise pytest.UsageError(f"--perf-precision: {text!r} is no precision; give a share such as 0.5% or 0.005")
    return value


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise pytest.UsageError(f"--perf-case-timeout: {text!r} is no time; give seconds, such as 600")
    return seconds


def _device(config: pytest.Config) -> torch.device:
    try:
        return devices.device(value(config, "device"))
    except ValueError as error:
        raise pytest.UsageError(f"--perf-device: {error}") from None


def _file(config: pytest.Config, name: str, default: str | None) -> Any:
    """Resolves a path: an option's is relative to where pytest was called, the ini file's and the default to the
    root."""
    option = config.getoption(f"perf_{name}")
    path = config.invocation_params.dir / option if option is not None else None
    if path is None and (known := config.getini(f"perf_{name}") or default):
        path = config.rootpath / known
    if path is not None and path.is_dir():
        raise pytest.UsageError(f"{flag(name)}: {path} is a directory; name a file in it")
    return path
