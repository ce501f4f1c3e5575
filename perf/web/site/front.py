"""Writes the front page: what a reader wants to know first, and the way into asv's graphs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files

from perf.compare.record import Comparison, Finding
from perf.report.counts import ALARMS
from perf.report.styles import Style, backend_styles
from perf.report.table import title
from perf.web.page import charts, colours, file
from perf.web.page.document import document
from perf.web.page.markup import Markup, tag
from perf.web.page.summary import tile
from perf.web.page.sweeps import blocks, legend
from perf.web.site import commits, figures_table, links, nights, steps
from perf.web.site.graphs import Graphs
from perf.web.site.latest import Latest, Place
from perf.web.site.parts import moment
from perf.web.site.words import full_title
from perf.workloads.workload import Workload

TITLE = "Performance history"
PAGES = {"": "Grid of graphs", "summarylist": "List of benchmarks", "regressions": "Regressions"}


@dataclass(frozen=True)
class Contents:
    """Holds all that the page shows; `problems` are what it can't, a line each."""

    project: str
    graphs: Graphs
    rows: Sequence[Latest] = ()
    places: Mapping[tuple[str, str], Place] = field(default_factory=dict)
    states: Sequence[commits.State] = ()
    steps: Sequence[steps.Step] = ()
    nights: Sequence[Comparison] = ()
    problems: Sequence[str] = ()


def page(shown: Contents) -> str:
    """Returns the page as text."""
    known = backend_styles({row.workload.backend for row in shown.rows})
    style = file("page.css") + _file("site.css") + colours(known)
    name = f"{TITLE} of {shown.project}"
    on_page = {state.commit.hash[:8] for state in shown.states}
    main = (_header(name, shown), _tiles(shown), _problems(shown.problems),
            nights.section(shown.nights, _named(shown), on_page),
            steps.section(shown.steps, shown.graphs, on_page),
            figures_table.picks(list(shown.places.values())) if shown.rows else None,
            _over_length(shown, known), figures_table.section(shown.rows, known, shown.graphs, on_page),
            commits.section(shown.states, shown.places))
    return document(name, charts.symbols(known), tag("main", *main), tag("div", id="tip", role="status", hidden=True),
                    style=style, script=file("page.js") + _file("site.js"))


def _header(name: str, shown: Contents) -> Markup:
    ways = tag("nav", *(tag("a", text, href=links.page(name)) for name, text in PAGES.items()), class_="ways",
               aria_label="asv's pages") if shown.graphs else None
    theme = tag("button", "Theme", type="button", id="theme")
    return tag("header", tag("div", tag("h1", name), theme, class_="bar"), ways)


def _tiles(shown: Contents) -> Markup:
    """Shows how the last night went, how old the history is, how much of it there is."""
    regressed = sum(found.word in ALARMS for night in shown.nights for found in night.findings)
    tiles = [tile(regressed, "regressed or wrong last night", "bad" if regressed else "good", "#night")
             if shown.nights else tile("-", "no night recorded", "", "#night")]
    if shown.steps:
        many = "" if len(shown.steps) == 1 else "s"
        tiles.append(tile(len(shown.steps), f"step{many} up in the history", "", "#steps"))
    if shown.rows:
        newest = max(shown.rows, key=lambda row: row.evidence.time).evidence
        when, name = datetime.fromtimestamp(newest.time, UTC).strftime("%Y-%m-%d"), (newest.revision or "")[:8]
        known = any(state.commit.hash == newest.revision for state in shown.states)
        tiles.append(tile(moment(newest.time, when), f"last measured, at {name}", "fresh",
                          f"#commit-{name}" if known else "#rows"))
    if shown.states:
        failed = sum(state.word == "failed" for state in shown.states)
        measured = sum(state.word == "measured" for state in shown.states)
        text = f"of {len(shown.states)} commits measured" + (f", {failed} failed" if failed else "")
        tiles.append(tile(measured, text, "bad" if failed else "", "#commits"))
    if shown.rows:
        tiles.append(tile(len({row.workload for row in shown.rows}), "workloads tracked", "", "#rows"))
    return tag("section", tag("h2", "Summary", class_="unseen"), tag("div", *tiles, class_="tiles"), id="summary")


def _problems(problems: Sequence[str]) -> Markup | None:
    return tag("section", tag("h2", "Not shown"), tag("ul", *(tag("li", problem) for problem in problems)),
               id="problems", class_="problems") if problems else None


def _over_length(shown: Contents, known: Mapping[str, Style]) -> Markup | None:
    """Draws the last TFLOP/s over the sequence length, a block a place."""
    parts, drawn = [], set()
    for place in shown.places.values():
        of_place = {row.workload: i for i, row in enumerate(shown.rows) if row.place == place}
        figures, backends = blocks([shown.rows[i].evidence for i in of_place.values()], known, of_place)
        drawn |= backends
        if figures:
            parts.append(tag("div", tag("p", f"{place.hardware}, {place.versions}", class_="where"), *figures,
                             _ways(of_place, shown.graphs, place), data_hardware=place.hardware,
                             data_versions=place.versions))
    return tag("section", tag("h2", "Over the sequence length"),
               tag("p", "From the last time of every workload. Both axes are logarithmic; higher is better.",
                   class_="note"), legend(drawn, known, False), *parts, id="sweeps") if parts else None


def _ways(drawn: Mapping[Workload, int], graphs: Graphs, place: Place) -> Markup | None:
    """Links to asv's graphs of the same series over n."""
    found = {link: w for w in drawn if (link := graphs.link(w, "time_call", place.properties, over_length=True))}
    shown = [tag("li", tag("a", f"{title(w)}, batch {w.batch}", href=link)) for link, w in found.items()]
    return tag("details", tag("summary", "The same in asv, any commit"), tag("ul", *shown)) if shown else None


def _named(shown: Contents) -> nights.Named:
    """Returns a function that names findings by their workloads, as far as the history has those."""
    by_id: dict[str, list[Latest]] = {}
    for row in shown.rows:
        by_id.setdefault(row.workload.id, []).append(row)

    def named(night: Comparison, found: Finding) -> tuple[str, str | None]:
        rows = sorted(by_id.get(found.benchmark, ()), key=lambda row: row.place.environment != night.environment)
        if not rows:
            return found.benchmark, None
        figure = "time_call" if found.figure == "time" else f"track_{found.figure}"
        w, commit = rows[0].workload, [found.since] if found.since else []
        return full_title(w), shown.graphs.link(w, figure, rows[0].place.properties, commits=commit)

    return named


def _file(name: str) -> str:
    return (files("perf.web.site") / name).read_text(encoding="utf-8")
