"""A night is kept for the decision as plain data, and looked at as arrays. Whoever measures fills it and stores it.

    night = Measured(commit, environment, launches, within, controls)
    text = night.to_json()                       # one line; Measured.from_json(text) reads it
    tables = Tables.of([*earlier, night], group)

A change of driver, torch or GPU is a change of environment, not a regression: the history starts anew, and a note says
so. A benchmark drifts as those frozen controls (perf/bench/controls.py) do that the same thing limits: its group.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.system import files
from perf.verdict.learn import REMEMBERED, Difference, pair_spread
from perf.verdict.screen import Array
from perf.workloads.workload import Workload

Environment = Mapping[str, Any]  # what a time depends on: perf.measure.machine.fingerprint(), without NO_INFLUENCE

SCHEMA = 1
LAUNCHES = 2  # of every benchmark, every night
AGAIN = 4  # of a suspect: two more, before it is compared

FLOPS_PER_BYTE = {"cpu": 10.0, "cuda": 150.0}  # below which memory sets the limit
LAUNCH_FLOPS = {"cpu": 1e6, "cuda": 1e9}  # of a call, below which starting it does
FEW = 64  # tokens of a model's call: its kernels are small


@dataclass(frozen=True)
class Comparison:
    """Is a comparison by live pairs that was not called a change: middle and standard error of the log ratio."""

    benchmark: str
    middle: float
    error: float
    audit: bool


@dataclass(frozen=True)
class Measurement:
    """Is one night on one machine. Times are seconds of one call.

    launches      by workload id: the median of each launch, 2 of every benchmark and more of a suspect
    within        by workload id: the relative spread (standard deviation) of the rounds of a launch
    controls      by name: the median of each launch of a frozen control workload (perf/bench/controls.py)
    comparisons   of this night
    changed       ids whose time was found to be another: their history begins here
    """

    commit: str
    environment: Environment
    launches: Mapping[str, Sequence[float]]
    within: Mapping[str, float]
    controls: Mapping[str, Sequence[float]]
    comparisons: tuple[Comparison, ...] = ()
    changed: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Measurement:
        """Raises ValueError, in one line, for what is no such night."""
        try:
            record = files.from_json(text)
            if record.pop("schema") != SCHEMA:
                raise ValueError(f"another schema than {SCHEMA}")
            record["comparisons"] = tuple(Comparison(**one) for one in record["comparisons"])
            record["changed"] = tuple(record["changed"])
            night = cls(**record)
            for one in (night, *night.comparisons):
                files.check_types(one)
            return night
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a night that this version reads: {error}; delete the line") from None


@dataclass(frozen=True)
class Tables:
    """Holds all nights of one environment in arrays of log seconds, tonight last; NaN where not measured, and before a
    benchmark's present level began. Benchmarks are those that were measured tonight."""

    benchmarks: tuple[str, ...]
    passes: Array  # (nights, benchmarks, AGAIN)
    controls: Array  # (nights, controls): the mean of each one's launches
    group_names: tuple[str, ...]
    group: NDArray[np.int64]  # of each benchmark, an index of `group_names`
    control_group: NDArray[np.int64]
    within: Array  # (benchmarks,), the median of all nights'
    compared: tuple[Difference, ...]

    @classmethod
    def of(cls, nights: Sequence[Measurement], groups: Mapping[str, str], control_groups: Mapping[str, str]) -> Tables:
        """Tabulates nights; `groups` and `control_groups` give the group of each benchmark and of each control."""
        tonight = nights[-1]
        benchmarks, controls = tuple(tonight.launches), tuple(tonight.controls)
        group_names = tuple(sorted({*groups.values(), *control_groups.values()}))
        number = {name: i for i, name in enumerate(group_names)}
        index = {name: i for i, name in enumerate(benchmarks)}
        passes = np.full((len(nights), len(benchmarks), AGAIN), np.nan)
        of_controls = np.full((len(nights), len(controls)), np.nan)
        within = np.full((len(nights), len(benchmarks)), np.nan)
        for t, night in enumerate(nights):
            for b, name in enumerate(benchmarks):
                seconds = night.launches.get(name, ())[:AGAIN]
                passes[t, b, :len(seconds)] = np.log(seconds) if len(seconds) else np.nan
                within[t, b] = night.within.get(name, np.nan)
            for c, name in enumerate(controls):
                if seconds := night.controls.get(name, ()):
                    of_controls[t, c] = np.log(seconds).mean()
            passes[:t, [index[name] for name in night.changed if name in index]] = np.nan
        compared = tuple(Difference(index[one.benchmark], one.middle, one.error, one.audit)
                         for night in nights[-REMEMBERED:] for one in night.comparisons if one.benchmark in index)
        group = np.array([number[groups[name]] for name in benchmarks])
        control_group = np.array([number[control_groups[name]] for name in controls])
        return cls(benchmarks, passes, of_controls, group_names, group, control_group, np.nanmedian(within, axis=0),
                   compared)

    @property
    def pair(self) -> Array:
        """Gives the learned spread of a pair, from the nights before tonight."""
        return pair_spread(self.passes[-REMEMBERED - 1:-1, :, :LAUNCHES])


def environment_start(nights: Sequence[Environment]) -> int:
    """Finds the first night of tonight's environment, in the unbroken run of equal ones that ends tonight."""
    start = len(nights) - 1
    while start > 0 and dict(nights[start - 1]) == dict(nights[-1]):
        start -= 1
    return start


def environment_change(nights: Sequence[Environment], enough: int) -> str | None:
    """Says, in one sentence, that the environment changed; None where it did not, or `enough` nights ago."""
    start = environment_start(nights)
    before = len(nights) - 1 - start
    if start == 0 or before >= enough:
        return None
    changes = "; ".join(differences(nights[start - 1], nights[start]))
    since = "tonight" if not before else f"{before} night{'' if before == 1 else 's'} ago"
    return (f"the environment changed {since} ({changes}): histories start anew, no change of time against earlier "
            f"nights is a regression, and until {enough} nights are known every benchmark is compared by live pairs")


def differences(old: Environment, new: Environment) -> list[str]:
    """Lists "torch 2.11.0 -> 2.12.0", one for each name that differs."""
    return [f"{name} {_value(old.get(name))} -> {_value(new.get(name))}" for name in sorted({*old, *new})
            if old.get(name) != new.get(name)]


def _value(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def group(w: Workload, device_type: str) -> str:
    """Gives "compute", "memory" or "launch", by a kernel's FLOPs and bytes, by a model's tokens."""
    if not w.bare:
        return "launch" if w.batch * w.n < FEW else "compute"
    flops, traffic = w.flops or 0, w.bytes or 1
    if flops < LAUNCH_FLOPS[device_type]:
        return "launch"
    return "memory" if flops / traffic < FLOPS_PER_BYTE[device_type] else "compute"


def groups(workloads: Iterable[Workload], device_type: str) -> dict[str, str]:
    """Gives the group of each workload by its id, as perf.verdict.nightly.plan_night takes them."""
    return {w.id: group(w, device_type) for w in workloads}
