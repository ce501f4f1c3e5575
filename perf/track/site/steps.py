"""The steps up that asv's own detection finds over the whole history, as a table."""
from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from perf.cells import Workload
from perf.report.page.markup import Markup, join, tag
from perf.report.units import UNKNOWN
from perf.track.series import Series
from perf.track.site.graphs import Graphs
from perf.track.site.latest import Place
from perf.track.site.parts import commit, table
from perf.track.site.words import change, figure_name, figure_text, full_title

HEADS = ("what", "figure", "measured on", "since", "before", "after", "change")


@dataclass(frozen=True)
class Step:
    """A figure of a workload that went up: the commits it lies between (`before` is None: at `after` itself)."""

    workload: Workload
    figure: str
    unit: str
    place: Place | None
    before: str | None
    after: str
    old: float
    new: float

    @property
    def ratio(self) -> float:
        return self.new / self.old if self.old else float("inf")


def steps(folder: Path, places: Sequence[Place]) -> list[Step]:
    """What asv published in `folder`, the largest first; none if it published nothing."""
    if not (folder / "regressions.json").exists():
        return []
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    hashes = {int(revision): commit for revision, commit in index["revision_to_hash"].items()}
    found = []
    for entry, _, properties, cell, _, _, jumps in json.loads(
            (folder / "regressions.json").read_text(encoding="utf-8"))["regressions"]:
        name = entry.partition("(")[0]
        w = _workload(index["benchmarks"][name], cell)
        place = next((place for place in places if properties.items() <= _asked(place, properties).items()), None)
        found += [Step(w, name.rpartition(".")[2], index["benchmarks"][name]["unit"], place, hashes.get(before),
                       hashes[after], old, new) for before, after, old, new in jumps or ()]
    return sorted(found, key=lambda step: step.ratio, reverse=True)


def _asked(place: Place, properties: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: properties[name] if name == "branch" else place.properties.get(name) for name in properties}


def _workload(benchmark: Mapping, cell: int) -> Workload:
    (values,) = islice(product(*benchmark["params"]), cell, cell + 1)
    axes = dict(zip(benchmark["param_names"], ([ast.literal_eval(value)] for value in values), strict=True))
    (w,) = Series("", "", axes).cells()
    return w


def section(found: Sequence[Step], graphs: Graphs, commits: Collection[str]) -> Markup | None:
    """The table; None if there is no step. `commits` are on the page, by eight digits."""
    if not found:
        return None
    return tag("section", tag("h2", "Steps up in the history"),
               tag("p", "Found by asv's step detection in all of the history, the largest first. "
                        "Lower is better in every figure.", class_="note"),
               table("Steps up", HEADS, (_row(step, graphs, commits) for step in found), numbers=HEADS[4:]), id="steps")


def _row(step: Step, graphs: Graphs, commits: Collection[str]) -> Markup:
    w, place = step.workload, step.place
    marked = [f"{step.before}-{step.after}" if step.before else step.after]
    link = graphs.link(w, step.figure, place.properties if place else {}, commits=marked)
    since = join([f"after {step.before[:8]}, by " if step.before else "", commit(step.after, commits)])
    cells = (tag("th", tag("a", full_title(w), href=link), scope="row"), tag("td", figure_name(step.figure)),
             tag("td", f"{place.hardware}, {place.versions}" if place else UNKNOWN), tag("td", since),
             *(tag("td", figure_text(value, step.unit), class_="num") for value in (step.old, step.new)),
             tag("td", change(step.ratio), class_="num worse"))
    return tag("tr", *cells)
