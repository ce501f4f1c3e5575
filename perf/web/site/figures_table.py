"""Shows every workload's last figures at every place in a table, derived ones among them."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from perf.report.styles import Style
from perf.report.table import Column, columns
from perf.report.units import items, number, with_unit
from perf.system.tools import group_by
from perf.web.page.charts import dot
from perf.web.page.markup import Markup, join, tag
from perf.web.page.rows_table import sortable
from perf.web.site.graphs import Graphs
from perf.web.site.latest import Latest, Place
from perf.web.site.parts import HIGHER, LOWER, change, commit, figure_name, link_to, rate, sparkline
from perf.workloads.workload import FORMULA, MODEL_FORMULA

SHARED = {"time": LOWER, "±": "", "TFLOP/s": HIGHER, "GB/s": HIGHER, "launches": LOWER, "host": LOWER,
          "memory": LOWER}
OWN = ("time_call", "track_peak_bytes", "track_launches", "track_host_time")  # stand in columns of `SHARED`
LEGEND = (
    "A row is a workload on a machine with certain versions; its figures are those of the last commit at which it was "
    "timed. The link at its head leads to asv's graph of it over the commits.",
    f"TFLOP/s and items/s are derived from the time: {FORMULA}; {MODEL_FORMULA}. Items are tokens (queries), images of "
    "a ViT, time series of a TFT.",
    "Time is the median, ± half its 99 % interval. Error is over what the error-ratio rule allows: above 1 is wrong.",
    "Change is the last time against the one before; the line is of the last 60, of a height of at least 20 % of it.",
)


def section(rows: Sequence[Latest], styles: Mapping[str, Style], graphs: Graphs,
            commits: Collection[str]) -> Markup | None:
    """Makes the table; None if there is no row. `commits` are on the page, by eight digits."""
    if not rows:
        return None

    def backend(row: Latest, text: str) -> Markup:
        link = graphs.link(row.workload, "time_call", row.place.properties)
        return join([dot(row.workload.backend, styles), link_to(text, link)])

    numbers = {id(row): i for i, row in enumerate(rows)}

    def attributes(row: Latest) -> dict[str, object]:
        return {"id": f"r{numbers[id(row)]}", "data_hardware": row.place.hardware, "data_versions": row.place.versions}

    first, *others = _columns(rows, commits)
    return sortable("All figures", rows, [replace(first, markup=backend), *others], attributes, LEGEND)


def _columns(rows: Sequence[Latest], commits: Collection[str]) -> list[Column[Latest]]:
    offered = columns([row.evidence for row in rows])
    what = [_lift(column) for column in offered if column.what]
    place = [Column[Latest]("hardware", lambda row: row.place.hardware, what=True),
             Column[Latest]("versions", lambda row: row.place.versions, what=True)]
    shared = [replace(_lift(column), better=SHARED[column.name]) for column in offered if column.name in SHARED]
    rest = dict.fromkeys(figure for row in rows for figure in row.lines if figure not in OWN)
    return [*what, *shared[:1], _change(), *shared[1:], _items(rows), *(_figure(figure, rows) for figure in rest),
            *place, Column("commit", lambda row: (row.evidence.revision or "")[:8],
                           markup=lambda row, text: commit(text, commits))]


def _lift(column: Column) -> Column[Latest]:
    """Makes a column of evidence one of a row that has evidence."""
    value: Callable = column.value
    return Column(column.name, lambda row: value(row.evidence), column.text, column.what)


def _change() -> Column[Latest]:
    def ratio(row: Latest) -> float | None:
        line = row.lines["time_call"]
        return line[-1].value / line[-2].value if len(line) > 1 and line[-2].value else None

    def sparkline_and_text(row: Latest, text: str) -> Markup:
        line = sparkline([each.value for each in row.lines["time_call"]])
        return join([line, text]) if line else join([text])

    return Column("change", ratio, change, better=LOWER, markup=sparkline_and_text)


def _items(rows: Sequence[Latest]) -> Column[Latest]:
    def value(row: Latest) -> float | None:
        return items(row.workload)[0] / row.evidence.median if row.evidence.median else None

    return Column("items/s", value, rate, better=HIGHER,
                  markup=lambda row, text: join([text, tag("small", items(row.workload)[1])]))


def _figure(figure: str, rows: Sequence[Latest]) -> Column[Latest]:
    unit = next(row.lines[figure][-1].unit for row in rows if figure in row.lines)
    return Column(figure_name(figure), lambda row: row.value(figure),
                  number if figure == "track_error" else lambda value: with_unit(value, unit), better=LOWER)


def picks(places: Sequence[Place]) -> Markup:
    """Makes the filters of the whole page: the hardware and its versions, at first those that were measured last."""
    first = places[0]
    hardware = list(dict.fromkeys(place.hardware for place in places))
    return tag(
        "div", _pick("hardware", "Measured on", "all machines", [
            tag("option", name, value=name, selected=name == first.hardware) for name in hardware]),
        _pick("versions", "with", "all versions", [
            tag("option", name, value=name, data_of="|".join(place.hardware for place in of),
                selected=name == first.versions)
            for name, of in group_by(places, lambda place: place.versions).items()]),
        class_="bar picks", role="group", aria_label="What is shown")


def _pick(name: str, label: str, everything: str, options: Sequence[Markup]) -> Markup:
    return tag("label", f"{label} ", tag("select", tag("option", everything, value=""), *options, class_="pick",
                                         name=name, autocomplete="off"))
