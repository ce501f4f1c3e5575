"""Shows the lasting changes of level in the history, steps and slow creep (perf/verdict/drift.py), in two tables."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from perf.report.units import with_unit
from perf.verdict import drift
from perf.web.page.markup import Markup, join, table, tag
from perf.web.site.graphs import Graphs
from perf.web.site.latest import Latest
from perf.web.site.parts import change, commit, figure_name, full_title, link_to

if TYPE_CHECKING:
    from perf.history.rows import Entry

RECENT = 120  # commits of a line that are looked through
HEADS = ("what", "figure", "since", "before", "after", "change", "measured on")


@dataclass(frozen=True)
class Step:
    """Is a figure of a workload that went from the level `old` to `new`.

    It lies between the commits `before` and `after`; of a creep there are none, but its last `nights`.
    """

    row: Latest
    figure: str
    old: float
    new: float
    before: str = ""
    after: str = ""
    nights: int = 0

    @property
    def ratio(self) -> float:
        """Divides the new level by the old one."""
        return self.new / self.old if self.old else inf


def steps(rows: Sequence[Latest]) -> list[Step]:
    """Finds the steps of all figures of all rows: those up, then those down, the largest first."""
    found = (step for row in rows for figure, line in row.lines.items() for step in _of_line(row, figure, line))
    return sorted(found, key=lambda step: -step.ratio if step.ratio > 1 else step.ratio)


def ups(found: Sequence[Step]) -> list[Step]:
    """Returns the steps up: lower is better in every figure."""
    return [step for step in found if step.ratio > 1]


def _of_line(row: Latest, figure: str, line: Sequence[Entry]) -> Iterator[Step]:
    """Finds the steps that the last level has not come back from; where there is none up, a creep. A step down counts
    only where it leads lower than the line ever was: the end of a step up does not."""
    line = line[-RECENT:]
    values = [each.value for each in line]
    if max(values) <= min(values) * (1 + drift.LEAST):
        return
    changes, slower, lowest = drift.steps(values), False, inf
    for one in changes:
        lowest, last = min(lowest, one.before), changes[-1].after
        up = one.ratio > 1 and last > one.before * (1 + drift.LEAST)
        if up or max(one.after, last) < lowest * (1 - drift.LEAST):
            slower |= up
            yield Step(row, figure, one.before, one.after, line[one.at - 1].commit, line[one.at].commit)
    if not slower and (crept := drift.creep(values)):
        yield Step(row, figure, crept.before, crept.after, nights=crept.nights)


def section(found: Sequence[Step], graphs: Graphs, commits: Collection[str]) -> Markup | None:
    """Makes the tables; None if there is no step. `commits` are on the page, by eight digits."""
    if not found:
        return None
    up = ups(found)
    parts = [table(name, HEADS, (_row(step, graphs, commits) for step in some), numbers=HEADS[3:6])
             for name, some in (("Steps up", up), ("Steps down", found[len(up):])) if some]
    return tag("section", tag("h2", "Steps in the history"),
               tag("p", f"Lasting changes of level within the last {RECENT} commits of a line, up and then down, the "
                        "largest first; what has come back since is left out. Lower is better in every figure.",
                   class_="note"), *parts, id="steps")


def _row(step: Step, graphs: Graphs, commits: Collection[str]) -> Markup:
    row, unit = step.row, step.row.lines[step.figure][-1].unit
    marked = [f"{step.before}-{step.after}"] if step.after else []
    link = graphs.link(row.workload, step.figure, row.place.properties, commits=marked)
    name = full_title(row.workload)
    since = join([commit(step.after, commits), tag("small", "after ", commit(step.before, commits))]) if step.after \
        else f"a creep over the last {step.nights}"
    cells = (tag("th", link_to(name, link), scope="row"),
             tag("td", figure_name(step.figure)), tag("td", since),
             *(tag("td", with_unit(value, unit), class_="num") for value in (step.old, step.new)),
             tag("td", change(step.ratio), class_="num worse" if step.ratio > 1 else "num"),
             tag("td", f"{row.place.hardware}, {row.place.versions}"))
    return tag("tr", *cells)
