"""Writes the table that ends a comparison of two revisions: a row a benchmark, counts, a line a function.

A pure function: rows in, text out, at most `WIDTH` columns wide.
"""
from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from perf.compare.record import Row, counts, mean
from perf.report.table import WIDTH, section, title, wrap
from perf.report.units import UNKNOWN, row_text, seconds
from perf.system.tools import group_by

COLUMNS = {"backend": "<15", "n": ">6", "b": ">4", "base": ">10", "head": ">10", "ratio": ">7", "interval": ">16"}
VERDICT = "<18"
WHY = "why"


def table(rows: Sequence[Row], notes: Iterable[str] = ()) -> str:
    """Sets the rows by section, what was not timed, a line a function, `notes`, and the counts last. Times are of one
    call; a ratio is head over base, so above 1 is slower."""
    shown = [row for row in rows if row.word not in ("unchanged", "skipped")]
    sections = group_by(shown, lambda row: section(row.workload))
    lines = [line for alike in sections.values() for line in _section_lines(alike)]
    last = counts(row.word for row in rows)
    return "\n".join([*lines, *wrap([*_unchanged(rows), *_skipped(rows), *means(rows), *notes, last])])


def means(rows: Iterable[Row]) -> Iterator[str]:
    """Writes a line a function with the mean of its ratios. Only what was timed counts."""
    timed = (row for row in rows if row.verdict.ratio)
    for function, group in group_by(timed, lambda row: row.workload.function).items():
        yield f"{function}: {mean([row.verdict.ratio for row in group if row.verdict.ratio])}"


def interval(row: Row) -> str:
    """Writes "[1.061, 1.084]", the interval of the ratio."""
    low, high = row.verdict.low, row.verdict.high
    if low is None or high is None or high == math.inf:  # of one pair
        return UNKNOWN
    return f"[{_ratio(low)}, {_ratio(high)}]"


def _ratio(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.3f}" if value < 99.9995 else f"{value:.0f}" if value < 10_000 else f"{value:.0e}"


def _section_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield f" {title(rows[0].workload)} ".center(WIDTH, "-")
    yield row_text({name: name for name in COLUMNS}, COLUMNS) + f"  {'verdict':{VERDICT}}{WHY}"
    for row in sorted(rows, key=lambda row: (row.workload.n, row.workload.batch)):
        w, v = row.workload, row.verdict
        cells = {"backend": w.backend, "n": w.n, "b": w.batch, "base": seconds(row.base), "head": seconds(row.head),
                 "ratio": _ratio(v.ratio), "interval": interval(row)}
        row_start = f"{row_text(cells, COLUMNS)}  {row.label:{VERDICT}}"
        yield from textwrap.wrap(v.why, WIDTH, initial_indent=row_start,
                                 subsequent_indent=" " * len(row_start)) or [row_start.rstrip()]
    yield ""


def _unchanged(rows: Iterable[Row]) -> Iterator[str]:
    same = (row for row in rows if row.word == "unchanged")
    for (label, why), alike in group_by(same, lambda row: (row.label, row.verdict.why)).items():
        counts = Counter(row.workload.variant for row in alike)
        yield (f"{label} ({why}; --perf-all times them too): "
               + ", ".join(f"{variant} {count}" for variant, count in counts.items()))


def _skipped(rows: Iterable[Row]) -> Iterator[str]:
    for reason, count in Counter(row.verdict.why for row in rows if row.word == "skipped").items():
        yield f"{count} skipped: {reason}"
