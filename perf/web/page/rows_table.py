"""Shows every row that was tried in a table, which page.js sorts by any column and filters by words."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.report.notes import legend
from perf.report.styles import Style
from perf.report.table import Column, Datasheet, Item, columns, groups
from perf.report.units import UNKNOWN
from perf.web.page.charts import dot
from perf.web.page.markup import Markup, join, scroll, tag


def sortable(title: str, rows: Sequence[Item], columns: Sequence[Column[Item]],
             attributes: Callable[[Item], Mapping[str, object]], legend: Iterable[str]) -> Markup:
    """Makes the section `#rows`. A row's `attributes` are those of its `tr`, its id ("r1") among them.

    What all rows have in common stands above the table, not in it; a column of which nothing is known is left out.
    """
    first, *others = columns
    values = {column.name: [column.value(row) for row in rows] for column in columns}
    same = {column.name: values[column.name][0] for column in others
            if column.what and len(set(values[column.name])) == 1}
    aligned = {column: "" if isinstance(present[0], str) else "num" for column in [first, *others] if column.name not in
               same and (present := [value for value in values[column.name] if value is not None])}
    head = tag("tr", *(tag("th", tag("button", column.name, type="button", data_better=column.better or None),
                           scope="col", class_=f"{side} {'what' if column.what else ''}".strip() or None)
                       for column, side in aligned.items()))
    body = join(tag("tr", *(_cell(row, column, side, column is first) for column, side in aligned.items()),
                    **attributes(row)) for row in rows)
    common = ", ".join(f"{name} {value}" for name, value in same.items() if value is not None)
    return tag(
        "section", tag("h2", title),
        tag("div", tag("label", "Filter ", tag("input", type="search", id="filter", autocomplete="off",
                                               placeholder="fa2 backward 8192")),
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


def section(rows: Sequence[Evidence], styles: Mapping[str, Style], datasheet: Datasheet | None) -> Markup | None:
    """Shows all rows that weren't skipped; what all have in common stands above the table, not in it."""
    shown = [row for row in rows if row.outcome != "skipped"]
    if not shown:
        return None
    ordered = {row.workload: i == 0 for group in groups(shown) for i, row in enumerate(group)}
    by_workload = {row.workload: row for row in shown}
    numbers = {row.workload: i for i, row in enumerate(rows)}

    def attributes(row: Evidence) -> dict[str, object]:
        words = [word for word, so in (("first", ordered[row.workload]), ("bad", row.outcome != "ok")) if so]
        return {"id": f"r{numbers[row.workload]}", "class_": " ".join(words) or None}

    def backend(row: Evidence, text: str) -> Markup:
        return join([dot(row.workload.backend, styles), text])

    first, *others = columns(shown, datasheet)
    return sortable("All rows", [by_workload[w] for w in ordered], [replace(first, markup=backend), *others],
                    attributes, legend(shown, datasheet is not None))
