"""Gives workloads asv's names and axes, the same whether `asv run` or pytest measured.

A series is one class of `asv_suite`: workloads that differ only in backend, causal, batch and n, and
in m where it equals n. It takes its name from what they have in common, so that a longer grid or
another package's workloads lengthen its axes, or add a series, and never rename one. A field that came
later (quantization, compiled) is an axis, and part of the name, only where it is not at its default: asv
would not find the history of a series that got another axis.
"""
from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from perf.system.tools import group_by
from perf.workloads.workload import FIELDS, Workload

# What asv keeps of a cell, and in which unit. Lower is better in all: asv takes any upward step for a regression.
FIGURES = {
    "time_call": "seconds",
    "track_host_time": "seconds",  # until the host has launched one call
    "track_compile_cold": "seconds",
    "track_compile_warm": "seconds",
    "track_peak_bytes": "bytes",
    "track_model_bytes": "bytes",
    "track_error": "error / bound",
    "track_launches": "launches",
    "track_quality_loss": "1 - quality",
}
VERSION = "2"  # of what the figures mean: another one makes asv drop the history before it
FOLLOWS = "n"  # the value on axis m of a series whose m is n
SWEPT = ("backend", "causal", "batch", "n")
LATER = {field.name: field.default for field in fields(Workload) if field.default is not MISSING}


@dataclass(frozen=True)
class Series:
    """Is a class of `asv_suite`: its module and name, and its axes, one for each field of a workload but those of
    `LATER` that are at their defaults."""

    module: str
    name: str
    axes: dict[str, list[Any]]

    @property
    def benchmark(self) -> str:
        """Returns asv's name of the series, without the figure."""
        return f"{self.module}.{self.name}"

    def workload(self, values: Sequence[Any]) -> Workload:
        """Returns the workload at `values`, one for each axis."""
        cell = dict(zip(self.axes, values, strict=True))
        if cell["m"] == FOLLOWS:
            cell["m"] = cell["n"]
        return Workload(**cell)

    def index(self, w: Workload) -> int:
        """Returns the number that asv gives to the cell of `w`: its place in the product of the axes.

        Raises ValueError if `w` is not on the axes.
        """
        place = 0
        for value, values in zip(self.values(w), self.axes.values(), strict=True):
            place = place * len(values) + values.index(value)
        return place

    def values(self, w: Workload) -> tuple[Any, ...]:
        """Returns the values of `w`, one for each axis, whether or not they are on it."""
        return tuple(FOLLOWS if axis == "m" and values == [FOLLOWS] else getattr(w, axis)
                     for axis, values in self.axes.items())

    def cells(self) -> list[Workload]:
        """Returns all workloads on the axes, in asv's order."""
        return [self.workload(values) for values in itertools.product(*self.axes.values())]


def common(w: Workload) -> Workload:
    """Returns what the workloads of a series share."""
    return replace(w, backend="", causal=False, batch=0, n=0, m=0 if w.m == w.n else w.m)


def series(workloads: Iterable[Workload]) -> dict[Workload, Series]:
    """Groups `workloads` into series, by what their cells have in common.

    Raises ValueError if two of them would have the same name.
    """
    by_share = {shared: _series(shared, cells) for shared, cells in group_by(workloads, common).items()}
    named: dict[str, Workload] = {}
    for shared, one in by_share.items():
        if named.setdefault(one.benchmark, shared) != shared:
            raise ValueError(f"{shared} and {named[one.benchmark]} have the same name in asv, {one.benchmark}; "
                             "give the model or function another name")
    return by_share


def _series(shared: Workload, cells: Sequence[Workload]) -> Series:
    axes = {field: [value] for field in FIELDS if (value := getattr(shared, field)) != LATER.get(field, MISSING)}
    axes |= {field: list(dict.fromkeys(getattr(w, field) for w in cells)) for field in SWEPT}
    axes["m"] = [shared.m or FOLLOWS]
    return Series("attention" if shared.bare else "models", _name(shared), axes)


def _name(shared: Workload) -> str:
    """Writes "SoftmaxForwardH8D64Fp32"; a model's heads are its preset's, and not repeated."""
    words = [] if shared.bare else [shared.model]
    words += [shared.function, shared.phase]
    if shared.bare:
        groups = "" if shared.kv_heads == shared.heads else f"G{shared.kv_heads}"
        words += [f"H{shared.heads}{groups}D{shared.head_dim}"]
    if shared.m:
        words.append(f"M{shared.m}")
    parts = [part for word in (*words, shared.dtype, *shared.treatment)
             for part in re.split(r"[^A-Za-z0-9]+", word)]
    return "".join(part[:1].upper() + part[1:] for part in parts)
