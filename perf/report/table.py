"""Writes the table that ends a run. Only backends of the same workload stand together and are compared.

A pure function: evidence in, text out, at most `WIDTH` columns wide.
"""
from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.report import models_table
from perf.report.notes import LIMITS, compilation, doubt, legend, reasons, shares
from perf.report.units import (
    calls,
    error_ratio,
    gigabytes,
    heads,
    keys,
    mask,
    number,
    percent,
    seconds,
    share,
    size,
    tflops,
)
from perf.system.tools import group_by
from perf.workloads.workload import Workload

WIDTH = 120
BASELINES = ("eager", "sdpa")
COLUMNS = {"backend": "<14", "n": ">6", "b": ">5", "time ": ">11", "±": ">7", "speed-up ": ">10", "TFLOP/s": ">9",
           "GB/s": ">8", "limit ": ">8", "peak": ">6", "launches": ">9", "memory": ">11", "error": ">9", "ratio": ">7"}

Datasheet = Callable[[Evidence], float | None]


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
    columns = [name for name in COLUMNS if name != "peak" or datasheet]
    header = {name: name for name in columns} | {"launches": calls_header(rows)}
    lines = [f" {title(rows[0].workload)} ".center(WIDTH, "-"), _line(columns, header)]
    for group in groups(rows):
        base = baseline(group)
        lines += [_line(columns, _cells(row, base, datasheet)) for row in group]
    return [*lines, ""]


def _line(columns: Iterable[str], cells: Mapping[str, object]) -> str:
    return "".join(format(str(cells.get(name, "")), COLUMNS[name]) for name in columns).rstrip()


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


def _cells(row: Evidence, base: Evidence | None, datasheet: Datasheet | None) -> dict[str, object]:
    w = row.workload
    cells = {"backend": w.backend, "n": w.n, "b": w.batch, "error": number(row.error, ".1e"),
             "ratio": number(error_ratio(row), ".2f")}
    if row.outcome != "ok" or not row.median:
        return cells | {"time ": row.outcome.upper() + " "}
    least = datasheet(row) if datasheet else None
    return cells | {
        "time ": seconds(row.median) + ("!" if doubt(row) else " "), "±": percent(row.interval),
        "speed-up ": number(speed_up(row, base), ".2f") + ("*" if row is base else " "),
        "TFLOP/s": number(tflops(row)), "GB/s": number(gigabytes(row)),
        "limit ": f"{percent(share(row))} {LIMITS.get(row.limit or '', ' ')}",
        "peak": percent(least and least / row.median), "launches": number(calls(row), "d"),
        "memory": size(row.peak_bytes)}


def wrap(paragraphs: Iterable[str]) -> list[str]:
    """Wraps paragraphs into lines of `WIDTH` columns at most; each further line of a paragraph is indented."""
    return [line for text in paragraphs for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]
