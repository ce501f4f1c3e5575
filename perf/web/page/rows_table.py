"""Shows every row that was tried in a table, which any column sorts and words filter."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.measure.shares import largest
from perf.report.notes import doubt, legend
from perf.report.styles import Style
from perf.report.table import Datasheet, baseline, calls_header, groups, mask, speed_up
from perf.report.units import (
    calls,
    error_ratio,
    gigabytes,
    largest_kernel,
    number,
    percent,
    seconds,
    share,
    size,
    tflops,
)
from perf.web.page.charts import key
from perf.web.page.markup import Markup, join, tag
from perf.web.page.sortable import Column, sortable
from perf.workloads.workload import UNQUANTISED

PARAMETERS = 14  # the first columns, which say what was measured, not what was found


def columns(rows: Sequence[Evidence], datasheet: Datasheet | None) -> list[Column[Evidence]]:
    """Lists all columns there may be, those of the parameters first."""
    bases = {row.workload: base for group in groups(rows) for base in [baseline(group)] for row in group}

    def faster(row: Evidence) -> float | None:
        return speed_up(row, bases[row.workload])

    def counter(name: str) -> Column[Evidence]:
        return Column(name.replace("_", " "), lambda row: row.counters.get(name), lambda n: number(n, "d"))

    def peak(row: Evidence) -> float | None:
        least = datasheet(row) if datasheet else None
        return least / row.median if least and row.outcome == "ok" and row.median else None

    called = calls_header(rows)
    counters = [name for name in dict.fromkeys(name for row in rows for name in row.counters) if name != called]
    offered = [
        Column("backend", lambda row: row.workload.backend), Column("function", lambda row: row.workload.function),
        Column("phase", lambda row: row.workload.phase), Column("mask", lambda row: mask(row.workload)),
        Column("n", lambda row: row.workload.n), Column("keys", _keys), Column("batch", lambda row: row.workload.batch),
        Column("heads", lambda row: row.workload.heads), Column("kv heads", _kv_heads),
        Column("head_dim", lambda row: row.workload.head_dim), Column("dtype", lambda row: row.workload.dtype),
        Column("model", _model), Column("quantization", _quantization), Column("compiled", _compiled),
        Column("outcome", lambda row: row.outcome), Column("time", _median, seconds),
        Column("±", lambda row: row.interval, percent), Column("speed-up", faster, lambda x: number(x, ".2f")),
        Column("TFLOP/s", tflops, number), Column("GB/s", gigabytes, number), Column("limit", share, percent),
        Column("peak", peak, percent), Column("binds", lambda row: row.limit if row.floor else None),
        Column(called, calls, "{:d}".format),
        Column("host", lambda row: row.host, seconds), Column("memory", lambda row: row.peak_bytes, size),
        Column("kept", lambda row: row.kept_bytes, size), Column("reserved", lambda row: row.reserved_bytes, size),
        Column("RSS", lambda row: row.rss_bytes, size), Column("error", lambda row: row.error, "{:.1e}".format),
        Column("ratio", error_ratio, lambda x: number(x, ".2f")),
        Column("attention", lambda row: row.attention_share, percent),
        Column("largest kernel", _largest_share, percent,
               markup=lambda row, text: join([largest_kernel(row, width=40)])),
        *map(counter, counters),
        Column("rounds", lambda row: row.rounds or None), Column("ended by", lambda row: row.ended),
        Column("clock", lambda row: row.clock),
        Column("doubt", doubt),
    ]
    return [replace(column, what=i < PARAMETERS) for i, column in enumerate(offered)]


def _model(row: Evidence) -> str | None:
    return None if row.workload.bare else row.workload.model


def _quantization(row: Evidence) -> str | None:
    return None if row.workload.quantization == UNQUANTISED else row.workload.quantization


def _compiled(row: Evidence) -> str | None:
    return "compiled" if row.workload.compiled else None


def _kv_heads(row: Evidence) -> int | None:
    """Returns the key/value heads, None where they are as many as the query heads."""
    return row.workload.kv_heads if row.workload.kv_heads != row.workload.heads else None


def _keys(row: Evidence) -> int | None:
    """Returns the keys, None where they are as many as the queries."""
    return row.workload.m if row.workload.m != row.workload.n else None


def _largest_share(row: Evidence) -> float | None:
    """Gives what the largest kernel takes of the time of all."""
    top = largest(row.kernel_shares)
    return top[1] if top else None


def _median(row: Evidence) -> float | None:
    return row.median if row.outcome == "ok" else None


def section(rows: Sequence[Evidence], styles: Mapping[str, Style], datasheet: Datasheet | None) -> Markup | None:
    """Shows all rows that weren't skipped; what all have in common stands above the table, not in it."""
    tried = [row for row in rows if row.outcome != "skipped"]
    if not tried:
        return None
    ordered = {row.workload: i == 0 for group in groups(tried) for i, row in enumerate(group)}
    by_workload = {row.workload: row for row in tried}
    numbers = {row.workload: i for i, row in enumerate(rows)}

    def attributes(row: Evidence) -> dict[str, object]:
        words = [word for word, so in (("first", ordered[row.workload]), ("bad", row.outcome != "ok")) if so]
        return {"id": f"r{numbers[row.workload]}", "class_": " ".join(words) or None}

    def backend(row: Evidence, text: str) -> Markup:
        return join([tag("i", class_=f"dot {key(row.workload.backend, styles)}"), text])

    first, *others = columns(tried, datasheet)
    return sortable("All rows", [by_workload[w] for w in ordered], [replace(first, markup=backend), *others],
                    attributes, legend(tried, datasheet is not None), example="fa2 backward 8192")
