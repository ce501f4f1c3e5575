"""Says what counts as a change: the settings of a verdict, and the patterns that set them for each benchmark.

The defaults stand in `thresholds.toml`, and are also those of the class. They were tuned in the simulated world
of perf/tests/simulation.py, on other seeds than those it is scored on. What real A/A runs on a kind of machine have
shown stands there too, under `[machines]`.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from perf.policy import check_pattern

FILE = Path(__file__).with_name("thresholds.toml")
MACHINES = "machines"  # the table of what holds on one kind of machine
ALARM_OF_A_RUN = 1e-3  # the chance that any of the unchanged benchmarks compared together is called slower


@dataclass(frozen=True)
class Prior:
    """Is what earlier runs tell of pairs: the spread (standard deviation) of one's log ratio, worth as many pairs as
    `weight`, and the correlation of one and the next at most."""

    spread: float = 0.0
    weight: float = 0.0
    correlation: float = 0.0


@dataclass(frozen=True)
class Thresholds:
    """Holds the settings of one benchmark's verdict. Raises ValueError, in one line, for what makes no sense.

    effect        "ok" leaves no larger change possible, of either sign: 0.05 is 5 % slower, or 1/1.05
    floor         what two layouts or placements of the same code differ by: no smaller change is called one, however
                  many pairs agree
    confidence    of the interval, at all looks together
    alarm         the largest chance that a benchmark that takes the same time is called slower; the same for faster
    correlation   of the log ratios of one pair and the next, up to which `confidence` and `alarm` hold
    least_pairs   before which nothing is decided
    least_change  before which no change of time is called
    most_pairs    after which sampling ends
    spread        of one pair's log ratio, as earlier runs tell it
    weight        as many pairs that knowledge is worth; 0: nothing is known
    rounds        of each side of a pair, a few turns at least; 0: as many as its time allows (perf/compare/pair.py)
    memory        bytes gate from this rise on; smaller ones are told
    error_factor  the head's error gates from this many times the base's on
    compile_factor, compile_seconds   seconds of compilation gate, apart from run time, from this many times the
                  base's on, if they are so many more as well
    """

    effect: float = 0.05
    floor: float = 0.0125
    confidence: float = 0.98
    alarm: float = 1e-4
    correlation: float = 0.5
    least_pairs: int = 2
    least_change: int = 2
    most_pairs: int = 32
    spread: float = 0.0
    weight: float = 0.0
    rounds: int = 0
    memory: float = 0.01
    error_factor: float = 1.5
    compile_factor: float = 1.5
    compile_seconds: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{field.name} = {value!r}: not a number")
        for name in ("least_pairs", "least_change", "most_pairs", "rounds"):
            if getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: not a whole number")
        if not 0 <= self.floor < self.effect:
            raise ValueError(f"floor = {self.floor}: must be at least 0 and below effect = {self.effect}")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation = {self.correlation}: must be at least 0 and below 1")
        if not 0 < self.alarm <= (1 - self.confidence) / 2 < 0.5:
            raise ValueError(f"confidence = {self.confidence}, alarm = {self.alarm}: must lie between 0 and 1, and "
                             "alarm must be at most half of what confidence leaves")
        fewest = 1 if self.weight > 0 else 2
        if not fewest <= self.least_pairs <= self.most_pairs:
            raise ValueError(f"least_pairs = {self.least_pairs}: must be at least {fewest} and at most "
                             f"most_pairs = {self.most_pairs}")
        if self.weight < 0 or (self.weight and self.spread <= 0):
            raise ValueError(f"spread = {self.spread}, weight = {self.weight}: a weight must be at least 0, and the "
                             "spread that has one above 0")
        if self.rounds < 0:
            raise ValueError(f"rounds = {self.rounds}: must be at least 0")
        if self.memory < 0 or self.error_factor < 1:
            raise ValueError(f"memory = {self.memory}, error_factor = {self.error_factor}: must be at least 0, and 1")
        if self.compile_factor < 1 or self.compile_seconds < 0:
            raise ValueError(f"compile_factor = {self.compile_factor}, compile_seconds = {self.compile_seconds}: must "
                             "be at least 1, and 0")

    @property
    def prior(self) -> Prior:
        return Prior(self.spread, self.weight, self.correlation)

    def among(self, count: int) -> Thresholds:
        """Returns the settings for one of `count` benchmarks compared in one run, so that their number does not
        multiply false alarms: the chance of each is at most an equal share of `ALARM_OF_A_RUN` (Bonferroni's bound).

        What ends as ok is not asked for more: only an alarm takes more pairs.
        """
        return replace(self, alarm=min(self.alarm, ALARM_OF_A_RUN / max(1, count)))


def thresholds(workload_id: str, table: Mapping[str, Any], machine: str = "") -> Thresholds:
    """Reads the settings of one benchmark on one kind of machine: a GPU's name, or "cpu".

    `table` is the parsed file: patterns to settings, later ones over earlier ones, and those of `machines` over all.
    Raises ValueError, in one line, for an unknown setting, whichever benchmark is asked for, or an impossible value.
    """
    settings: dict[str, Any] = {}
    by_kind = table.get(MACHINES, {})
    if not isinstance(by_kind, Mapping):
        raise ValueError(f'thresholds: {MACHINES} is no table; write [{MACHINES}."KIND"."PATTERN"]')
    general = {name: one for name, one in table.items() if name != MACHINES}
    for kind, patterns in [("*", general), *by_kind.items()]:
        if not isinstance(patterns, Mapping):
            raise ValueError(f'thresholds: {MACHINES}."{kind}" is no table; write [{MACHINES}."{kind}"."PATTERN"]')
        check_pattern(kind)
        for pattern, values in patterns.items():
            check_pattern(pattern)
            _refuse(pattern, values)
            if fnmatchcase(machine, kind) and fnmatchcase(workload_id, pattern):
                settings |= values
    try:
        return Thresholds(**settings)
    except ValueError as error:
        raise ValueError(f"thresholds of {workload_id}: {error}") from None


def _refuse(pattern: str, values: Any) -> None:
    """Raises ValueError for what are no settings of a pattern."""
    if not isinstance(values, Mapping):
        raise ValueError(f'thresholds: {pattern} stands outside a table; write it below a pattern such as ["*"]')
    known = [field.name for field in fields(Thresholds)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f'thresholds: ["{pattern}"] sets {unknown[0]!r}; choose from {", ".join(known)}')
