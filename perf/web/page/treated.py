"""Draws speed against size of quantised and compiled models: a chart a model, phase and batch."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.report.models_table import against, by_workload, quality, reference
from perf.report.styles import Style
from perf.report.units import items, keys, number, seconds, size
from perf.web.page.charts import Point, chart, decades, legend, swatch
from perf.web.page.markup import Markup, tag
from perf.workloads.workload import Workload

NOTE = ("Up is faster, left is smaller. A compiled model is filled, an uncompiled one hollow; a model that is not "
        "quantised is named by its dtype.")


def name(w: Workload) -> str:
    """Writes "bnb-int8 compiled", or the dtype of a model that is not quantised."""
    return " ".join(w.treatment if w.treatment and w.treatment[0] != "compiled" else (w.dtype, *w.treatment))


def names(rows: Sequence[Evidence]) -> set[str]:
    """Names all that is drawn."""
    return {name(row.workload) for group in groups(rows) for row in group}


def groups(rows: Sequence[Evidence]) -> list[list[Evidence]]:
    """Groups the timed rows of one model, backend, phase, length and batch, where something was done to one of them."""
    by_model: dict[Workload, dict[str, Evidence]] = {}
    for row in rows:
        if not row.workload.bare and row.outcome == "ok" and row.median and row.kept_bytes:
            by_model.setdefault(replace(row.workload.plain, dtype=""), {})[name(row.workload)] = row
    lists = (list(group.values()) for group in by_model.values())
    return [group for group in lists if len(group) > 1 and any(row.workload.treatment for row in group)]


def section(rows: Sequence[Evidence], styles: Mapping[str, Style], numbers: Mapping[Workload, int]) -> Markup | None:
    """Makes the charts with their legend; None where no model was treated."""
    panels = groups(rows)
    if not panels:
        return None
    timed = by_workload(rows)
    return tag("section", tag("h2", "Speed against size"), tag("p", NOTE, class_="note"),
               legend(names(rows), styles, "treatments shown"),
               tag("div", *(_panel(group, styles, numbers, timed) for group in panels), class_="panels"), id="treated")


def _panel(group: Sequence[Evidence], styles: Mapping[str, Style], numbers: Mapping[Workload, int],
           timed: Mapping[Workload, Evidence]) -> Markup:
    w = group[0].workload
    x = decades([(row.kept_bytes or 0) / 1e6 for row in group], "weights in MB")
    y = decades(list(map(_rate, group)), f"{items(w)[1]} a second")
    points = {name(row.workload): [_point(row, numbers, timed)] for row in group}
    ordered = {one: points[one] for one in styles if one in points}
    title = f"{w.model}, {w.phase}, batch {w.batch}"
    best = max(group, key=_rate)
    return tag("figure", tag("figcaption", tag("b", title), f" n {w.n}{keys(w)}, {w.variant}"),
               chart(ordered, styles, x, y, label=f"{items(w)[1]} a second over MB of weights: {title}"),
               tag("p", swatch(name(best.workload), styles), f"{name(best.workload)} is the fastest: "
                   f"{seconds(best.median or 0)}, {_comparison(best, timed)}"))


def _point(row: Evidence, numbers: Mapping[Workload, int], timed: Mapping[Workload, Evidence]) -> Point:
    label = f"{size(row.kept_bytes)}, {number(_rate(row))} {items(row.workload)[1]} a second, {_comparison(row, timed)}"
    return Point((row.kept_bytes or 0) / 1e6, _rate(row), label, numbers[row.workload])


def _comparison(row: Evidence, timed: Mapping[Workload, Evidence]) -> str:
    compared = against(row, reference(row.workload, timed)) or "the model as it is"
    return compared + (f", quality {quality(row)}" if row.quality.get("new") is not None else "")


def _rate(row: Evidence) -> float:
    return items(row.workload)[0] / (row.median or 1)
