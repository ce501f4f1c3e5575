"""Says which columns a table of evidence has, and writes the one that ends a run, at most `WIDTH` characters wide.

Only backends of the same workload stand together and are compared. All functions are pure: evidence in, text out.
"""
from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from perf.measure.evidence import Evidence
from perf.report import models_table
from perf.report.notes import LIMITS, compilation, doubt, legend, reasons, shares
from perf.report.units import (
    UNKNOWN,
    calls,
    error_ratio,
    gigabytes,
    heads,
    keys,
    largest_kernel,
    mask,
    number,
    percent,
    row_text,
    seconds,
    share,
    size,
    tflops,
)
from perf.system.tools import group_by
from perf.workloads.workload import UNQUANTISED, Workload

WIDTH = 120
BASELINES = ("eager", "sdpa")
WIDTHS = {"backend": "<14", "n": ">6", "batch": ">5", "time": ">11", "±": ">7", "speed-up": ">10", "TFLOP/s": ">9",
          "GB/s": ">8", "limit": ">8", "peak": ">6", "launches": ">9", "memory": ">11", "error": ">9", "ratio": ">7"}
UNTIMED = ("backend", "n", "batch", "error", "ratio")  # what the terminal shows of a row without a time
MARKED = ("time", "speed-up", "limit")  # have a sign behind them

Item = TypeVar("Item")
Datasheet = Callable[[Evidence], float | None]


@dataclass(frozen=True)
class Column(Generic[Item]):
    """Is a column by its name: its value of a row, and that in words; None has no words."""

    name: str
    value: Callable[[Item], float | str | None]
    text: Callable[[Any], str] = str
    what: bool = False  # says what was measured, not what was found
    better: str = ""  # "lower is better"
    markup: Callable[[Item, str], str] | None = None  # of the words, where a page shows more than text


def table(rows: Sequence[Evidence], datasheet: Datasheet | None = None) -> str:
    """Sets the measured rows by section and group, models once more with what was done to them, what was compiled, how
    to read it, and what was not measured and why.

    `datasheet` gives the least seconds of a row by its device's datasheet, None where that is not known.
    """
    shown = [row for row in rows if row.outcome != "skipped"]
    plain = [row for row in shown if not row.workload.treatment]
    lines = [line for alike in group_by(plain, lambda row: section(row.workload)).values()
             for line in _section_lines(alike, datasheet)]
    lines += models_table.lines(shown, calls_header(shown))
    lines += [*shares(shown), *compilation(plain)]
    if shown:
        lines += wrap([*legend(shown, with_datasheet=datasheet is not None), *models_table.notes(shown)])
    return "\n".join([*lines, *reasons_for_no_time(rows)])


def reasons_for_no_time(rows: Sequence[Evidence]) -> list[str]:
    """Says why rows have no time, a line a reason, wrapped."""
    return wrap(text for outcome in ("skipped", "invalid", "failed", "wrong") for text in reasons(rows, outcome))


def latest(rows: Sequence[Evidence]) -> list[Evidence]:
    """Returns the last measurement of every workload on the machine that measured last, in the order of the first."""
    return list({row.workload: row for row in rows if row.machine == rows[-1].machine}.values())


def section(w: Workload) -> Workload:
    """Returns what the rows of a section share: they differ in backend, n and b."""
    return replace(w.group, n=0, batch=0, m=0 if w.m == w.n else w.m)


def groups(rows: Iterable[Evidence]) -> list[list[Evidence]]:
    """Groups the rows that may be compared with one another, by length and batch within a section."""
    return [group for alike in group_by(rows, lambda row: section(row.workload)).values()
            for group in sorted(group_by(alike, lambda row: row.workload.group).values(),
                                key=lambda group: (group[0].workload.n, group[0].workload.batch))]


def _section_lines(rows: Sequence[Evidence], datasheet: Datasheet | None) -> list[str]:
    offered = {one.name: one for one in columns(rows, datasheet)}
    widths = {calls_header(rows) if name == "launches" else name: width for name, width in WIDTHS.items()
              if name != "peak" or datasheet}
    shown = [offered[name] for name in widths]
    header = {name: f"{'b' if name == 'batch' else name}{' ' * (name in MARKED)}" for name in widths}
    lines = [f" {title(rows[0].workload)} ".center(WIDTH, "-"), row_text(header, widths).rstrip()]
    for group in groups(rows):
        base = baseline(group)
        lines += [row_text(_cells(row, shown, row is base), widths).rstrip() for row in group]
    return [*lines, ""]


def _cells(row: Evidence, shown: Iterable[Column[Evidence]], is_base: bool) -> dict[str, str]:
    cells = {one.name: UNKNOWN if (value := one.value(row)) is None else one.text(value) for one in shown}
    if row.outcome != "ok" or not row.median:
        return {name: cells[name] for name in UNTIMED} | {"time": f"{row.outcome.upper()} "}
    marks = {"time": "!" if doubt(row) else " ", "speed-up": "*" if is_base else " ",
             "limit": f" {LIMITS.get(row.limit or '', ' ')}"}
    return cells | {name: cells[name] + mark for name, mark in marks.items()}


def calls_header(rows: Iterable[Evidence]) -> str:
    """Names what `units.calls` counts in these rows."""
    names = {name for row in rows for name in row.counters}
    return "operators" if "operators" in names and "launches" not in names else "launches"


def title(w: Workload) -> str:
    """Names what the rows of a section have in common."""
    model = "" if w.bare else f"{w.model}: "
    treatment = "".join(f", {word}" for word in w.treatment)
    return f"{model}{w.function} {w.phase}, {mask(w)}, {heads(w)} x {w.head_dim}{keys(w)}, {w.dtype}{treatment}"


def baseline(group: Sequence[Evidence]) -> Evidence | None:
    """Chooses what the others of a group are compared with: eager, else sdpa, else the first; None if none is ok."""
    timed = {row.workload.backend: row for row in group if row.outcome == "ok" and row.median}
    return next((timed[name] for name in (*BASELINES, *timed) if name in timed), None)


def speed_up(row: Evidence, base: Evidence | None) -> float | None:
    """Divides the baseline's time by a row's; None unless both were timed."""
    return base.median / row.median if row.outcome == "ok" and row.median and base and base.median else None


def columns(rows: Sequence[Evidence], datasheet: Datasheet | None = None) -> list[Column[Evidence]]:
    """Lists all columns there may be, those of the parameters first. The terminal shows some of them, a page all."""
    bases = {row.workload: base for group in groups(rows) for base in [baseline(group)] for row in group}
    called = calls_header(rows)
    others = [name for name in dict.fromkeys(name for row in rows for name in row.counters) if name != called]

    def parameter(name: str, of: Callable[[Workload], float | str | None]) -> Column[Evidence]:
        return Column(name, lambda row: of(row.workload), what=True)

    def counter(name: str) -> Column[Evidence]:
        return Column(name.replace("_", " "), lambda row: row.counters.get(name), lambda n: number(n, "d"))

    def peak(row: Evidence) -> float | None:
        least = datasheet(row) if datasheet else None
        return least / row.median if least and row.outcome == "ok" and row.median else None

    return [
        parameter("backend", lambda w: w.backend), parameter("function", lambda w: w.function),
        parameter("phase", lambda w: w.phase), parameter("mask", mask), parameter("n", lambda w: w.n),
        parameter("keys", lambda w: w.m if w.m != w.n else None), parameter("batch", lambda w: w.batch),
        parameter("heads", lambda w: w.heads),
        parameter("kv heads", lambda w: w.kv_heads if w.kv_heads != w.heads else None),
        parameter("head_dim", lambda w: w.head_dim), parameter("dtype", lambda w: w.dtype),
        parameter("model", lambda w: None if w.bare else w.model),
        parameter("quantization", lambda w: None if w.quantization == UNQUANTISED else w.quantization),
        parameter("compiled", lambda w: "compiled" if w.compiled else None),
        Column("outcome", lambda row: row.outcome),
        Column("time", lambda row: row.median if row.outcome == "ok" else None, seconds),
        Column("±", lambda row: row.interval, percent),
        Column("speed-up", lambda row: speed_up(row, bases[row.workload]), lambda x: number(x, ".2f")),
        Column("TFLOP/s", tflops, number), Column("GB/s", gigabytes, number), Column("limit", share, percent),
        Column("peak", peak, percent), Column("binds", lambda row: row.limit if row.floor else None),
        Column(called, calls, lambda n: number(n, "d")), Column("host", lambda row: row.host, seconds),
        Column("memory", lambda row: row.peak_bytes, size), Column("kept", lambda row: row.kept_bytes, size),
        Column("reserved", lambda row: row.reserved_bytes, size), Column("RSS", lambda row: row.rss_bytes, size),
        Column("error", lambda row: row.error, lambda x: number(x, ".1e")),
        Column("ratio", error_ratio, lambda x: number(x, ".2f")),
        Column("attention", lambda row: row.attention_share, percent),
        Column("largest kernel", lambda row: max(row.kernel_shares.values(), default=None), percent,
               markup=lambda row, text: largest_kernel(row, width=40)),
        *map(counter, others), Column("rounds", lambda row: row.rounds or None),
        Column("ended by", lambda row: row.ended), Column("clock", lambda row: row.clock), Column("doubt", doubt)]


def wrap(paragraphs: Iterable[str]) -> list[str]:
    """Wraps paragraphs into lines of `WIDTH` columns at most; each further line of a paragraph is indented."""
    return [line for text in paragraphs for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]
