"""Draws the charts: a panel a shape and phase over the sequence length, speed against error, and speed against size of
quantised and compiled models."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from attention.registry import functions
from perf.measure.evidence import Evidence
from perf.report.models_table import against, by_workload, quality, reference
from perf.report.plot import Lines, ceiling, lengths, load_of, shapes
from perf.report.styles import Style
from perf.report.table import groups, mask, title
from perf.report.units import heads, items, keys, length, number, percent, seconds, share, size, tflops
from perf.web.page import charts
from perf.web.page.charts import Axis, Point, chart, decades, swatch
from perf.web.page.markup import Markup, tag
from perf.workloads.workload import Workload

NOTE = ("Up is faster, left is smaller. A compiled model is filled, an uncompiled one hollow; a model that is not "
        "quantised is named by its dtype.")


def sweeps(rows: Sequence[Evidence], styles: Mapping[str, Style], numbers: Mapping[Workload, int]) -> Markup | None:
    """Makes the section of all charts; None if nothing was measured at two lengths."""
    parts, drawn = blocks(rows, styles, numbers)
    if not parts:
        return None
    limited = any(row.floor for row in rows)
    return tag("section", tag("h2", "Over the sequence length"), legend(drawn, styles, limited), *parts, id="sweeps")


def blocks(rows: Sequence[Evidence], styles: Mapping[str, Style],
           numbers: Mapping[Workload, int]) -> tuple[list[Markup], set[str]]:
    """Makes a block of panels a function or model, all with the same axes; names the backends that are drawn."""
    by_name: dict[str, dict[Workload, Lines]] = {}
    for w, lines in shapes(row for row in rows if not row.workload.treatment).items():
        by_name.setdefault(w.function if w.bare else f"{w.model}: {w.function}", {})[w] = lines
    approximate = _approximate(rows)
    drawn = {backend for panels in by_name.values() for lines in panels.values() for backend in lines}
    drawn |= {row.workload.backend for group in approximate for row in group}
    parts = [_block(name, panels, styles, numbers) for name, panels in by_name.items()]
    if approximate:
        parts.append(tag("section", tag("h3", "Speed against error"), tag(
            "div", *(_against_error(group, styles, numbers) for group in approximate), class_="panels"), id="error"))
    return parts, drawn


def legend(drawn: Collection[str], styles: Mapping[str, Style], limited: bool) -> Markup:
    """Makes a button a backend that hides its lines; `limited` adds what the limit looks like."""
    limit = tag("span", tag("svg", tag("polyline", points="1,7 29,7", class_="limit"), viewBox="0 0 30 14",
                            class_="swatch", aria_hidden="true"), "limit by the measured ceilings", class_="chip")
    return charts.legend(drawn, styles, "backends shown", limit if limited else None)


def _block(name: str, panels: Mapping[Workload, Lines], styles: Mapping[str, Style],
           numbers: Mapping[Workload, int]) -> Markup:
    rows = [row for lines in panels.values() for points in lines.values() for row in points]
    heights = [rate for row in rows for rate in (tflops(row), ceiling(row)) if rate]
    y = decades(heights, "TFLOP/s")
    phases = list(dict.fromkeys(w.phase for w in panels))
    ordered = sorted(panels, key=lambda w: (w.head_dim, w.heads, w.kv_heads, w.dtype, not w.causal, w.m,
                                            phases.index(w.phase)))
    figures = [_panel(w, panels[w], y, styles, numbers, phases.index(w.phase)) for w in ordered]
    return tag("section", tag("h3", name), tag("div", *figures, class_=f"panels of{min(len(phases), 3)}"))


def _panel(w: Workload, lines: Lines, y: Axis, styles: Mapping[str, Style], numbers: Mapping[Workload, int],
           column: int) -> Markup:
    ticks = lengths(lines)
    x = Axis(ticks[0] / 1.12, ticks[-1] * 1.12, [(n, length(n)) for n in ticks], "n")
    rows = [row for points in lines.values() for row in points]
    points = {backend: [_point(row, numbers) for row in lines[backend]] for backend in styles if backend in lines}
    limits = {row.workload.n: rate for row in rows if (rate := ceiling(row))}
    svg = chart(points, styles, x, y, label=f"TFLOP/s over n: {title(w)}", limit=sorted(limits.items()))
    best = max((row for row in rows if row.workload.n == ticks[-1]), key=lambda row: tflops(row) or 0)
    reached = f", {percent(share(best))} of the limit" if share(best) else ""
    return tag("figure", tag("figcaption", tag("b", f"{w.phase}, {mask(w)}"),
                             f" {heads(w)} x {w.head_dim}, {w.dtype}, {load_of(rows)}"), svg,
               tag("p", swatch(best.workload.backend, styles),
                   f"{best.workload.backend} leads at {length(ticks[-1])}: {number(tflops(best))} TFLOP/s{reached}"),
               class_=f"column{column % 3}")


def _point(row: Evidence, numbers: Mapping[Workload, int]) -> Point:
    label = f"n {row.workload.n}, {number(tflops(row))} TFLOP/s, {seconds(row.median)}"
    return Point(row.workload.n, tflops(row) or 0, label, numbers[row.workload])


def _approximate(rows: Sequence[Evidence]) -> list[list[Evidence]]:
    """Groups the timed rows of functions that approximate, a group a workload with two backends or more."""
    names = {name for name, function in functions().items() if function.kind == "approximate"}
    timed = (row for row in rows if row.outcome == "ok" and row.median and row.error and row.workload.function in names)
    return [group for group in groups(timed) if len(group) > 1]


def _against_error(group: Sequence[Evidence], styles: Mapping[str, Style], numbers: Mapping[Workload, int]) -> Markup:
    w = group[0].workload
    x, y = decades([row.error or 0 for row in group], "error"), decades([row.median or 0 for row in group], "seconds")
    points = {row.workload.backend: [Point(row.error or 0, row.median or 0, f"error {row.error:.1e}, "
                                           f"{seconds(row.median)}", numbers[row.workload])] for row in group}
    return tag("figure", tag("figcaption", tag("b", title(w)), f" n = {length(w.n)}, batch {w.batch}"),
               chart(points, styles, x, y, label=f"seconds over error: {title(w)}"))


def treatment_name(w: Workload) -> str:
    """Writes "bnb-int8 compiled", or the dtype of a model that is not quantised."""
    return " ".join(w.treatment if w.treatment and w.treatment[0] != "compiled" else (w.dtype, *w.treatment))


def treatment_names(rows: Sequence[Evidence]) -> set[str]:
    """Names the treatments that are drawn."""
    return {treatment_name(row.workload) for group in _treated_groups(rows) for row in group}


def _treated_groups(rows: Sequence[Evidence]) -> list[list[Evidence]]:
    """Groups the timed rows of one model, backend, phase, length and batch, where something was done to one of them."""
    by_model: dict[Workload, dict[str, Evidence]] = {}
    for row in rows:
        if not row.workload.bare and row.outcome == "ok" and row.median and row.kept_bytes:
            by_model.setdefault(replace(row.workload.plain, dtype=""), {})[treatment_name(row.workload)] = row
    lists = (list(group.values()) for group in by_model.values())
    return [group for group in lists if len(group) > 1 and any(row.workload.treatment for row in group)]


def speed_against_size(rows: Sequence[Evidence], styles: Mapping[str, Style],
                       numbers: Mapping[Workload, int]) -> Markup | None:
    """Makes the charts with their legend; None where no model was treated."""
    panels = _treated_groups(rows)
    if not panels:
        return None
    timed = by_workload(rows)
    return tag("section", tag("h2", "Speed against size"), tag("p", NOTE, class_="note"),
               charts.legend(treatment_names(rows), styles, "treatments shown"),
               tag("div", *(_size_panel(group, styles, numbers, timed) for group in panels), class_="panels"),
               id="treated")


def _size_panel(group: Sequence[Evidence], styles: Mapping[str, Style], numbers: Mapping[Workload, int],
                timed: Mapping[Workload, Evidence]) -> Markup:
    w = group[0].workload
    x = decades([(row.kept_bytes or 0) / 1e6 for row in group], "weights in MB")
    y = decades(list(map(_rate, group)), f"{items(w)[1]} a second")
    points = {treatment_name(row.workload): [_size_point(row, numbers, timed)] for row in group}
    ordered = {one: points[one] for one in styles if one in points}
    title = f"{w.model}, {w.phase}, batch {w.batch}"
    best = max(group, key=_rate)
    fastest = treatment_name(best.workload)
    return tag("figure", tag("figcaption", tag("b", title), f" n {w.n}{keys(w)}, {w.variant}"),
               chart(ordered, styles, x, y, label=f"{items(w)[1]} a second over MB of weights: {title}"),
               tag("p", swatch(fastest, styles),
                   f"{fastest} is the fastest: {seconds(best.median)}, {_comparison(best, timed)}"))


def _size_point(row: Evidence, numbers: Mapping[Workload, int], timed: Mapping[Workload, Evidence]) -> Point:
    label = f"{size(row.kept_bytes)}, {number(_rate(row))} {items(row.workload)[1]} a second, {_comparison(row, timed)}"
    return Point((row.kept_bytes or 0) / 1e6, _rate(row), label, numbers[row.workload])


def _comparison(row: Evidence, timed: Mapping[Workload, Evidence]) -> str:
    compared = against(row, reference(row.workload, timed)) or "the model as it is"
    return compared + (f", quality {quality(row)}" if row.quality.get("new") is not None else "")


def _rate(row: Evidence) -> float:
    return items(row.workload)[0] / (row.median or 1)
