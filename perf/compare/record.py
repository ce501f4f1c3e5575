"""A comparison of two revisions on one machine has a row for each benchmark, and a record of all, a night's or a pull
request's. Here verdicts are counted, ratios averaged, in one way for terminal, alerts and site. It needs no torch.

Whoever decides writes the record; alerts and the site read it. It is one JSON file with a schema number:

    comparison = Comparison(time=time.time(), machine=machine.identity(), fingerprint=machine.fingerprint(), ...)
    comparison.save(path)
    comparison = load(path)                     # ValueError, in one line, for what is no such record
"""
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from perf.system import files
from perf.system.files import YEAR_10000
from perf.system.tools import first_line
from perf.verdict.causes import HOST
from perf.verdict.verdict import Verdict
from perf.verdict.words import many
from perf.workloads.ids import workload
from perf.workloads.workload import Workload

SCHEMA = 1
OUTCOMES = ("ok", "failed", "skipped")
NUMBER, TEXT, COUNT = (int, float), (str,), (int,)
# Of rows, in the order in which they are counted.
WORDS = ("wrong", "regressed", "improved", "ok", "unchanged", "inconclusive", "invalid", "missing", "new", "skipped")
# All words, the one that wants a reader's eye first in front; those that raise an alarm.
PRESSING = ("wrong", "regressed", "invalid", "missing", "inconclusive", "improved", "new", "ok", "unchanged", "skipped")
ALARMS = ("wrong", "regressed")
SAME_SOURCES = "the same sources on both sides, not timed"
SAME_KERNELS = "no function that changed runs, and the compiler wrote the same, not timed"


@dataclass(frozen=True)
class Row:
    """Is the verdict on one benchmark; `base` and `head` are seconds of one call, None where nothing was timed.

    `word` is the verdict's, or "unchanged" (ok without timing), or "skipped" (neither side can).
    """

    workload: Workload
    verdict: Verdict
    word: str
    base: float | None = None
    head: float | None = None
    samples: tuple[float, ...] = ()  # the head's rounds

    @classmethod
    def unchanged(cls, workload: Workload, why: str = SAME_SOURCES) -> Self:
        """Makes the row of a benchmark that both sides run by the same sources, or by the same kernels."""
        return cls(workload, Verdict("ok", why=why), "unchanged")

    @property
    def label(self) -> str:
        """Gives the word, as it is shown: "regressed (host)" where Python got slower and not what it launches."""
        if self.word == "regressed" and self.verdict.cause == HOST:
            return "regressed (host)"
        same = "ok, the same kernels" if self.verdict.why == SAME_KERNELS else "ok, unchanged"
        return same if self.word == "unchanged" else self.word

    @property
    def short(self) -> str:
        """Writes "ok 1.003x"."""
        return f"{self.label} {self.verdict.ratio:.3f}x" if self.verdict.ratio else self.label

    @property
    def sentence(self) -> str:
        """Writes "regressed: 7.2 % slower [6.1, 8.4], 12 pairs"."""
        return f"{self.label}: {self.verdict.why}"


@dataclass(frozen=True)
class Finding:
    """Is the verdict on one figure of one benchmark: `ratio` is head over base, its interval from `low` to `high`.

    An infinite or undefined number is not known: None. Raises ValueError for an unknown word or a wrong type.
    """

    benchmark: str  # the id of its workload
    figure: str  # "time", "peak_bytes", "launches", ...
    unit: str  # "seconds", "bytes", "" of a count
    word: str  # a verdict's, or "unchanged" or "skipped": one of WORDS
    base: float | None = None
    head: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    why: str = ""  # a sentence
    certified: float | None = None  # the smallest change that could be certified: 0.04 is 4 %
    since: str | None = None  # the commit that bisection found, its author and the first line of its message
    author: str | None = None
    subject: str | None = None
    samples: tuple[tuple[str, float], ...] = ()  # of the history, oldest first: commit and value
    slower: bool = False  # the interval lies above the floor, whatever the word
    cause: str | None = None  # what most likely regressed it
    rounds: tuple[float, ...] = ()  # the head's, in seconds, of a shard: whoever plays its rows needs them

    def __post_init__(self) -> None:
        known = [(commit, value) for commit, value in self.samples if _number(value, "samples") is not None]
        object.__setattr__(self, "samples", tuple(known))
        rounds = tuple(one for one in self.rounds if _number(one, "rounds") is not None)
        object.__setattr__(self, "rounds", rounds)
        for name in ("base", "head", "ratio", "low", "high", "certified"):
            object.__setattr__(self, name, _number(getattr(self, name), name))
        _typed(self, TEXT, ("benchmark", "figure", "unit", "word", "why"))
        _typed(self, (*TEXT, type(None)), ("since", "author", "subject", "cause"))
        _typed(self, COUNT, ("pairs",))
        if self.ratio is not None and self.ratio < 0:
            raise ValueError(f"ratio: not that of two figures: {self.ratio!r}")
        if self.word not in WORDS:
            raise ValueError(f"unknown word {self.word!r}; choose from {', '.join(WORDS)}")

    @classmethod
    def of(cls, row: Row, *, rounds: bool = False) -> Self:
        """Makes the finding on the time of a benchmark that `--perf-against` decided; with its `rounds`, if asked."""
        v = row.verdict
        return cls(row.workload.id, "time", "seconds", row.word, row.base, row.head, v.ratio, v.low, v.high, v.pairs,
                   v.why, v.certified, slower=v.slower, cause=v.cause, rounds=row.samples if rounds else ())

    def row(self) -> Row:
        """Makes the row that it is of. Raises ValueError, in one line, where the benchmark's name is no id."""
        word = {"unchanged": "ok", "skipped": "missing"}.get(self.word, self.word)
        verdict = Verdict(word, self.ratio, self.low, self.high, self.pairs, self.why, 0, self.certified,
                          slower=self.slower, cause=self.cause)
        return Row(workload(self.benchmark, registered=False), verdict, self.word, self.base, self.head, self.rounds)


@dataclass(frozen=True)
class Failed:
    """Is a commit, benchmark or step that could not be measured, and why in one line."""

    what: str
    reason: str

    def __post_init__(self) -> None:
        _typed(self, TEXT, ("what", "reason"))


@dataclass(frozen=True)
class Step:
    """Is the outcome of one step of a comparison, with its seconds."""

    name: str
    outcome: str  # of OUTCOMES
    reason: str | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        _typed(self, TEXT, ("name",))
        _typed(self, (*TEXT, type(None)), ("reason",))
        object.__setattr__(self, "seconds", _number(self.seconds, "seconds"))
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}; choose from {', '.join(OUTCOMES)}")


@dataclass(frozen=True)
class Comparison:
    """Is one comparison. `time` is when it began, in seconds since 1970; `machine` the id of what `fingerprint`
    tells."""

    time: float
    machine: str  # perf.measure.machine.identity()
    fingerprint: Mapping[str, Any]  # perf.measure.machine.fingerprint()
    environment: str  # the name of asv's environment; "" without one
    base: str  # revisions
    head: str
    command: str  # what measures it again
    findings: tuple[Finding, ...] = ()
    failed: tuple[Failed, ...] = ()
    vanished: tuple[str, ...] = ()  # benchmarks that the history has and the head doesn't
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()  # sentences about all of it
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # "base", "head": where they differ
    shard: Mapping[str, Any] = field(default_factory=dict)  # of a part of a comparison: perf.measure.evidence.Shard
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema!r}, this version reads {SCHEMA}")
        began = _number(self.time, "time")
        if began is None or not 0 <= began < YEAR_10000:
            raise ValueError(f"time: not a time: {self.time!r}")
        _typed(self, TEXT, ("machine", "environment", "base", "head", "command"))
        for name in ("fingerprint", "versions", "shard"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name}: not a table")
        for name, kind in (("findings", Finding), ("failed", Failed), ("vanished", str), ("steps", Step),
                           ("notes", str)):
            if not all(isinstance(one, kind) for one in getattr(self, name)):
                raise ValueError(f"{name}: not all are a {kind.__name__}")

    @property
    def date(self) -> str:
        """Writes "2026-11-25 02:00 UTC"."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def hardware(self) -> str:
        """Writes "2 x NVIDIA H200", or the processor's name where there is no GPU. A comparison of environments says
        so: its issues are none of a night's."""
        gpus = self.fingerprint.get("gpus")
        names = [str(name) for name in gpus] if isinstance(gpus, list | tuple) else []
        place = names[0] if names else str(self.fingerprint.get("cpu") or "a machine that is not described")
        count = f"{len(names)} x " if len(names) > 1 else ""
        return f"{count}{place}{' against other versions' if self.versions else ''}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, in one line, for what is no record of this schema."""
        try:
            record = files.from_json(text)
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']!r}, this version reads {SCHEMA}")
            findings = tuple(Finding(**one | {"samples": tuple((str(commit), value)
                                                               for commit, value in one.get("samples", ()))})
                             for one in record["findings"])
            nested = {"findings": findings, "failed": tuple(Failed(**one) for one in record["failed"]),
                      "steps": tuple(Step(**one) for one in record["steps"]),
                      "vanished": tuple(record["vanished"]), "notes": tuple(record["notes"])}
            if unknown := set(record) - {f.name for f in fields(cls)}:
                raise ValueError(f"unknown field {min(unknown)!r}")
            made = cls(**record | nested)
            made.to_json()  # refuses a number that JSON has not
            return made
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None
        except (AttributeError, TypeError) as error:
            raise ValueError(first_line(error)) from None

    def save(self, path: Path) -> None:
        """Writes all of it or nothing, so that a killed night leaves the file as it was."""
        files.write(path, self.to_json() + "\n")


def load(path: Path) -> Comparison:
    """Raises ValueError, in one line with the file's name, for what can't be read or is no such record."""
    try:
        return Comparison.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; give the file that a night or --perf-verdicts wrote") from None
    except ValueError as error:  # of JSON, of UTF-8, or ours
        raise ValueError(f"{path}: not the record of a comparison: {error}; measure again, or delete it") from None


def _number(value: Any, name: str) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, NUMBER)):
        raise ValueError(f"{name}: not a number: {value!r}")
    return value if value is not None and math.isfinite(value) else None


def _typed(record: Any, kinds: tuple[type, ...], names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(value := getattr(record, name), kinds) or isinstance(value, bool):
            raise ValueError(f"{name}: not {' or '.join(kind.__name__ for kind in kinds)}: {value!r:.60}")


def counts(words: Iterable[str]) -> str:
    """Writes "12 benchmarks: 1 regressed, 11 unchanged" for a word a benchmark."""
    number = Counter(words)
    labels = ((number[word], "ok, unchanged" if word == "unchanged" else word) for word in WORDS)
    text = ", ".join(f"{count} {word}" for count, word in labels if count)
    return f"{many(number.total(), 'benchmark')}: {text or 'none compared'}"


def worst_words(findings: Iterable[Finding]) -> list[str]:
    """Gives the most pressing word of each benchmark's figures."""
    worst: dict[str, str] = {}
    for f in findings:
        worst[f.benchmark] = min(f.word, worst.get(f.benchmark, f.word), key=PRESSING.index)
    return list(worst.values())


def mean(ratios: Sequence[float]) -> str:
    """Writes "1.012x the base's time (geometric mean), 0.981 to 1.072, 12 benchmarks"."""
    middle = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    return (f"{middle:.3f}x the base's time (geometric mean), {min(ratios):.3f} to {max(ratios):.3f}, "
            f"{many(len(ratios), 'benchmark')}")
