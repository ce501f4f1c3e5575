"""Shows the figures that a reader wants first: outcomes, and the fastest backend of each function and model."""
from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from perf.measure.evidence import Evidence
from perf.report.styles import Style
from perf.report.table import baseline, groups, mask, speed_up
from perf.report.units import length, number, percent, seconds, share, tflops
from perf.web.page.charts import dot
from perf.web.page.markup import Markup, tag
from perf.workloads.workload import Workload

FASTEST = ("Fastest backend of each phase at the longest sequence (then the largest head_dim, causal, the largest "
           "batch). Only backends of the same workload are compared.")


def summary(rows: Sequence[Evidence], styles: Mapping[str, Style]) -> Markup:
    """Counts the outcomes, then shows a card a function or model."""
    cards: dict[str, list[list[Evidence]]] = {}
    for group in sorted(_largest(rows), key=lambda group: not group[0].workload.bare):
        w = group[0].workload
        cards.setdefault(w.function if w.bare else w.model, []).append(group)
    return tag("section", tag("h2", "Summary"), tag("div", *_tiles(rows), class_="tiles"),
               tag("p", FASTEST, class_="note") if cards else None,
               tag("div", *(_card(name, lines, styles) for name, lines in cards.items()), class_="cards"), id="summary")


def _tiles(rows: Sequence[Evidence]) -> list[Markup]:
    counts = Counter(row.outcome for row in rows)
    tiles = [tile(counts["ok"], f"of {len(rows)} workloads measured", "good", "#rows")]
    tiles += [tile(counts[outcome], outcome, "bad", "#problems") for outcome in ("wrong", "failed", "invalid")
              if counts[outcome]]
    if counts["skipped"]:
        tiles.append(tile(counts["skipped"], "skipped, with a reason", "", "#skipped"))
    if intervals := [row.interval for row in rows if row.outcome == "ok" and row.interval is not None]:
        late = sum(row.ended == "budget" for row in rows if row.outcome == "ok")
        tiles.append(tile(f"±{percent(statistics.median(intervals))}", "typical 95 % interval of a median"
                           + (f"; {late} ended by the time budget" if late else ""), "", "#rows"))
    return tiles


def tile(figure: object, text: str, kind: str, href: str) -> Markup:
    """Shows a figure with what it says; `kind` is "good", "bad" or nothing."""
    return tag("a", tag("b", figure), tag("span", text), href=href, class_=f"tile {kind}".rstrip())


def _largest(rows: Sequence[Evidence]) -> list[list[Evidence]]:
    """Returns the group that stands for each model, function and phase in the summary."""
    largest: dict[tuple[str, str, str], list[Evidence]] = {}
    for group in groups(row for row in rows if row.outcome == "ok" and row.median and not row.workload.treatment):
        w = group[0].workload
        name = (w.model, w.function, w.phase)
        if name not in largest or _rank(w) > _rank(largest[name][0].workload):
            largest[name] = group
    return list(largest.values())


def _rank(w: Workload) -> tuple[int, int, int, bool, int]:
    return w.n, w.m, w.head_dim, w.causal, w.batch


def _card(name: str, lines: Sequence[Sequence[Evidence]], styles: Mapping[str, Style]) -> Markup:
    w = lines[0][0].workload
    keys = "" if w.n == w.m else f", {length(w.m)} keys"
    shape = f"n = {length(w.n)}{keys}, batch {w.batch}, {w.heads} heads x {w.head_dim}, {mask(w)}, {w.dtype}"
    same = all(_rank(group[0].workload) == _rank(w) for group in lines)
    head = tag("tr", *(tag("th", text, scope="col", class_="num" if i > 1 else None) for i, text in enumerate(
        ("phase", "fastest", "TFLOP/s" if w.bare else "time", "limit", "speed-up"))))
    return tag("section", tag("h3", name), tag("p", shape if same else "each phase at its own longest sequence",
                                               class_="note"),
               tag("table", tag("thead", head), tag("tbody", *(_line(group, styles) for group in lines))),
               class_="card best")


def _line(group: Sequence[Evidence], styles: Mapping[str, Style]) -> Markup:
    best, base = min(group, key=lambda row: row.median or 0), baseline(group)
    figure = number(tflops(best)) if best.workload.bare else seconds(best.median)
    factor = f"{number(speed_up(best, base), '.1f')}x {base.workload.backend}" if base and base is not best else "-"
    return tag("tr", tag("th", best.workload.phase, scope="row"),
               tag("td", dot(best.workload.backend, styles), best.workload.backend),
               *(tag("td", text, class_="num") for text in (figure, percent(share(best)), factor)))
