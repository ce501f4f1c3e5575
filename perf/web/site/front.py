"""Writes the front page: what a reader wants to know first, and the way into asv's graphs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perf.compare.record import ALARMS, Comparison, Finding
from perf.report.styles import Style, backend_styles
from perf.report.table import title
from perf.system.tools import group_by
from perf.web.page import file, frame
from perf.web.page.markup import Markup, heading, tag
from perf.web.page.summary import tile
from perf.web.page.sweeps import blocks, legend
from perf.web.site import commits, figures_table, nights, steps
from perf.web.site.graphs import Graphs, asv_page
from perf.web.site.latest import Latest, Place, latest, places
from perf.web.site.parts import full_title, moment
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


def page(content: Contents) -> str:
    """Returns the page as text."""
    styles = backend_styles({row.workload.backend for row in content.rows})
    name = f"{TITLE} of {content.project}"
    on_page = {state.commit.hash[:8] for state in content.states}
    ways = tag("nav", *(tag("a", text, href=asv_page(page)) for page, text in PAGES.items()), class_="ways",
               aria_label="asv's pages") if content.graphs else None
    problems = tag("section", tag("h2", "Not shown"), tag("ul", *(tag("li", line) for line in content.problems)),
                   id="problems", class_="problems") if content.problems else None
    main = (tag("header", heading(name), ways), _tiles(content), problems,
            nights.section(content.nights, _namer(content), on_page),
            steps.section(content.steps, content.graphs, on_page),
            figures_table.picks(list(content.places.values())) if content.rows else None,
            _over_length(content, styles), figures_table.section(content.rows, styles, content.graphs, on_page),
            commits.section(content.states, content.places))
    return frame(name, styles, *main, style=file(__package__, "site.css"), script=file(__package__, "site.js"))


def _tiles(content: Contents) -> Markup:
    """Shows how the last night went, how old the history is, how much of it there is."""
    regressed = sum(finding.word in ALARMS for night in content.nights for finding in night.findings)
    tiles = [tile(regressed, "regressed or wrong last night", "bad" if regressed else "good", "#night")
             if content.nights else tile("-", "no night recorded", "", "#night")]
    if content.steps:
        up = len(steps.ups(content.steps))
        words = "step up" if up == 1 else "steps up"
        tiles.append(tile(up, f"{words} in the history, {len(content.steps) - up} down", "", "#steps"))
    if content.rows:
        newest = max(content.rows, key=lambda row: row.evidence.time).evidence
        when, name = datetime.fromtimestamp(newest.time, UTC).strftime("%Y-%m-%d"), (newest.revision or "")[:8]
        on_page = any(state.commit.hash == newest.revision for state in content.states)
        tiles.append(tile(moment(newest.time, when), f"last measured, at {name}", "fresh",
                          f"#commit-{name}" if on_page else "#rows"))
    if content.states:
        failed = sum(state.word == "failed" for state in content.states)
        measured = sum(state.word == "measured" for state in content.states)
        text = f"of {len(content.states)} commits measured" + (f", {failed} failed" if failed else "")
        tiles.append(tile(measured, text, "bad" if failed else "", "#commits"))
    if content.rows:
        tiles.append(tile(len({row.workload for row in content.rows}), "workloads tracked", "", "#rows"))
    return tag("section", tag("h2", "Summary", class_="unseen"), tag("div", *tiles, class_="tiles"), id="summary")


def _over_length(content: Contents, styles: Mapping[str, Style]) -> Markup | None:
    """Draws the last TFLOP/s over the sequence length, a block a place."""
    parts, drawn = [], set()
    for place in content.places.values():
        of_place = {row.workload: i for i, row in enumerate(content.rows) if row.place == place}
        figures, backends = blocks([content.rows[i].evidence for i in of_place.values()], styles, of_place)
        drawn |= backends
        if figures:
            parts.append(tag("div", tag("p", f"{place.hardware}, {place.versions}", class_="where"), *figures,
                             _ways(of_place, content.graphs, place), data_hardware=place.hardware,
                             data_versions=place.versions))
    return tag("section", tag("h2", "Over the sequence length"),
               tag("p", "From the last time of every workload. Both axes are logarithmic; higher is better.",
                   class_="note"), legend(drawn, styles, False), *parts, id="sweeps") if parts else None


def _ways(drawn: Mapping[Workload, int], graphs: Graphs, place: Place) -> Markup | None:
    """Links to asv's graphs of the same series over n."""
    links_to = {link: w for w in drawn if (link := graphs.link(w, "time_call", place.properties, over_length=True))}
    entries = [tag("li", tag("a", f"{title(w)}, batch {w.batch}", href=link)) for link, w in links_to.items()]
    return tag("details", tag("summary", "The same in asv, any commit"), tag("ul", *entries)) if entries else None


def _namer(content: Contents) -> nights.Namer:
    """Returns a function that names findings by their workloads, as far as the history has those."""
    by_id = group_by(content.rows, lambda row: row.workload.id)

    def name_of(night: Comparison, finding: Finding) -> tuple[str, str | None]:
        rows = sorted(by_id.get(finding.benchmark, ()), key=lambda row: row.place.environment != night.environment)
        if not rows:
            return finding.benchmark, None
        figure = "time_call" if finding.figure == "time" else f"track_{finding.figure}"
        w, commit = rows[0].workload, [finding.since] if finding.since else []
        return full_title(w), content.graphs.link(w, figure, rows[0].place.properties, commits=commit)

    return name_of


def gather(config: Mapping[str, Any], root: Path, results: Path, folder_of_nights: Path, published: Path,
           problems: Sequence[str]) -> Contents:
    """Gathers what there is; what can't be read is added to the `problems`, a line each."""
    comparisons, unreadable = nights.read(folder_of_nights)
    graphs, lines = Graphs(published), [*problems, *unreadable]
    project = str(config.get("project", "this project"))
    if find_spec("asv") is None or not results.is_dir():
        return Contents(project, graphs, nights=comparisons, problems=lines)
    from perf.history.rows import load

    history = load(results)
    named = " ".join(lines)
    lines += [str(problem) for problem in history.problems if str(problem.path) not in named]
    all_places: dict[tuple[str, str], Place] = places(results, history)
    states: list[commits.State] = []
    try:
        repository = root / config.get("repo", ".")
        states = commits.states(commits.log(repository), history, results, comparisons, repository)
    except (ValueError, OSError) as error:
        lines.append(str(error))
    rows = latest(history, all_places)
    return Contents(project, graphs, rows, all_places, states, steps.steps(rows), comparisons, lines)
