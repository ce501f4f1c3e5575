"""Shows last night's verdicts, what regressed first, from the records that perf/compare/record.py writes."""
from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from perf.compare.record import ALARMS, PRESSING, Comparison, Finding, counts, load, worst_words
from perf.report.units import UNKNOWN, with_unit
from perf.web.page.markup import Markup, join, table, tag
from perf.web.site.parts import change, commit, figure_name, link_to, moment, sparkline

FOLDED = ("ok", "unchanged", "skipped")
HEADS = ("verdict", "what", "figure", "base", "head", "trend", "since")
NUMBERS = ("base", "head")

Namer = Callable[[Comparison, Finding], tuple[str, str | None]]  # a benchmark in words, and the address of its graph


def read(folder: Path) -> tuple[list[Comparison], list[str]]:
    """Reads the newest night of each machine and environment, the newest first, and a line for each file that is
    none."""
    newest: dict[tuple[str, str], Comparison] = {}
    problems = []
    for path in sorted(folder.glob("**/*.json")):
        try:
            night = load(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        key = (night.machine, night.environment)
        if key not in newest or night.time > newest[key].time:
            newest[key] = night
    return sorted(newest.values(), key=lambda night: night.time, reverse=True), problems


def section(nights: Sequence[Comparison], name_of: Namer, commits: Collection[str]) -> Markup:
    """Shows all nights' verdicts, or that there are none. `commits` are on the page, by eight digits."""
    parts = [_night(night, name_of, commits) for night in nights]
    return tag("section", tag("h2", "Last night"),
               *(parts or [tag("p", "No night has been recorded yet.", class_="note")]), id="night")


def _night(night: Comparison, name_of: Namer, commits: Collection[str]) -> Markup:
    findings = sorted(night.findings, key=lambda finding: (PRESSING.index(finding.word), -(finding.ratio or 1)))
    loud = [finding for finding in findings if finding.word not in FOLDED]
    quiet = [finding for finding in findings if finding.word in FOLDED]
    broken = [step for step in night.steps if step.outcome != "ok"]
    versions = ", ".join(f"{name} {night.fingerprint[name]}" for name in ("torch", "cuda", "driver")
                         if night.fingerprint.get(name))
    return tag(
        "div",
        tag("h3", counts(worst_words(night.findings))),
        tag("p", moment(night.time, night.date), f" on {night.hardware}" + (f", {versions}" if versions else "") + ": ",
            commit(night.head, commits), " against ", commit(night.base, commits), class_="note"),
        *(tag("p", note) for note in night.notes),
        _list("Steps that did not end well", [f"{s.name}: {s.outcome}{': ' + s.reason if s.reason else ''}"
                                              for s in broken]),
        _table(night, loud, name_of, commits, "What changed or could not be told") if loud else None,
        _list("Could not be measured", [f"{_short(failed.what)}: {failed.reason}" for failed in night.failed]),
        _list("Vanished", night.vanished),
        tag("details", tag("summary", f"{len(quiet)} without a change"),
            _table(night, quiet, name_of, commits, "Without a change")) if quiet else None,
        tag("p", "Measure it again: ", tag("code", night.command), class_="note") if night.command else None,
        class_="night")


def _short(what: str) -> str:
    """Returns a commit by its first digits, anything else as it is."""
    return what[:8] if re.fullmatch(r"[0-9a-f]{40}", what) else what


def _list(name: str, lines: Sequence[str]) -> Markup | None:
    return join([tag("p", tag("b", name)), tag("ul", *(tag("li", line) for line in lines))]) if lines else None


def _table(night: Comparison, findings: Sequence[Finding], name_of: Namer, commits: Collection[str],
           label: str) -> Markup:
    return table(label, HEADS, (_row(night, one, name_of, commits) for one in findings), numbers=NUMBERS)


def _row(night: Comparison, one: Finding, name_of: Namer, commits: Collection[str]) -> Markup:
    since = [commit(one.since, commits), f" {one.author or ''}: {one.subject or ''}"] if one.since else [UNKNOWN]
    text, address = name_of(night, one)
    cells = (tag("td", tag("span", one.word, class_=f"word {one.word}"), *_change(one)),
             tag("th", link_to(text, address),
                 tag("p", one.why, class_="note") if one.why else None, scope="row"),
             tag("td", figure_name(f"track_{one.figure}")),
             *(tag("td", with_unit(value, one.unit), class_="num") for value in (one.base, one.head)),
             tag("td", sparkline([value for _, value in one.samples])),
             tag("td", *since))
    return tag("tr", *cells, class_="bad" if one.word in ALARMS else None)


def _change(one: Finding) -> list[Markup]:
    """Returns what stands below the verdict: the change, and its interval, as far as they are known."""
    if one.ratio is None:
        return []
    interval = f"[{change(one.low)}, {change(one.high)}]" if one.low is not None and one.high is not None else None
    return [tag("br"), join([change(one.ratio)]), *([tag("br"), tag("small", interval)] if interval else [])]
