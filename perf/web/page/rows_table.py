"""Shows every row that was tried in a table, which page.js sorts by any column and filters by words."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from perf.measure.evidence import Evidence
from perf.measure.shares import largest
from perf.report.notes import doubt, legend
from perf.report.styles import Style
from perf.report.table import Datasheet, baseline, calls_header, groups, mask, speed_up
from perf.report.units import (
    UNKNOWN,
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
from perf.web.page.charts import dot
from perf.web.page.markup import Markup, join, scroll, tag
from perf.workloads.workload import UNQUANTISED

Item = TypeVar("Item")
Value = float | str | None


@dataclass(frozen=True)
class Column(Generic[Item]):
    """Is a column by its name: what it sorts by, and that in words."""

    name: str
    value: Callable[[Item], Value]
    text: Callable[[Any], str] = str
    what: bool = False  # says what was measured, not what was found
    better: str = ""  # "lower is better"
    markup: Callable[[Item, str], Markup] | None = None  # of the words, where they are more than text


def sortable(title: str, rows: Sequence[Item], columns: Sequence[Column[Item]],
             attributes: Callable[[Item], Mapping[str, object]], legend: Iterable[str], *,
             example: str) -> Markup:
    """Makes the section `#rows`. A row's `attributes` are those of its `tr`, its id ("r1") among them.

    What all rows have in common stands above the table, not in it; a column of which nothing is known is left out.
    `example` stands in the filter's empty field.
    """
    first, *others = columns
    values = {column.name: [column.value(row) for row in rows] for column in columns}
    same = {column.name: values[column.name][0] for column in others
            if column.what and len(set(values[column.name])) == 1}
    aligned = {column: "" if isinstance(given[0], str) else "num" for column in [first, *others] if column.name not in
               same and (given := [value for value in values[column.name] if value is not None])}
    head = tag("tr", *(tag("th", tag("button", column.name, type="button", data_better=column.better or None),
                           scope="col", class_=f"{side} {'what' if column.what else ''}".strip() or None)
                       for column, side in aligned.items()))
    body = join(tag("tr", *(_cell(row, column, side, column is first) for column, side in aligned.items()),
                    **attributes(row)) for row in rows)
    common = ", ".join(f"{name} {value}" for name, value in same.items() if value is not None)
    return tag(
        "section", tag("h2", title),
        tag("div", tag("label", "Filter ", tag("input", type="search", id="filter", autocomplete="off",
                                               placeholder=example)),
            tag("output", f"{len(rows)} rows", id="count", for_="filter"), class_="bar"),
        tag("p", f"In every row: {common}.", class_="note") if common else None,
        scroll(title, tag("table", tag("thead", head), tag("tbody", body), id="table")),
        tag("details", tag("summary", "How to read it"), *(tag("p", text) for text in legend)), id="rows")


def _cell(row: Item, column: Column[Item], side: str, is_head: bool) -> Markup:
    value = column.value(row)
    text = UNKNOWN if value is None else column.text(value)
    plain = value is None or isinstance(value, str)
    sorts_by = None if plain or text == str(value) else f"{value:.6g}"
    content = column.markup(row, text) if column.markup else text
    if is_head:
        return tag("th", content, scope="row")
    return tag("td", content, class_=side or None, data_v=sorts_by)


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
        return join([dot(row.workload.backend, styles), text])

    first, *others = columns(tried, datasheet)
    return sortable("All rows", [by_workload[w] for w in ordered], [replace(first, markup=backend), *others],
                    attributes, legend(tried, datasheet is not None), example="fa2 backward 8192")
