"""Writes findings as rows of a table: the worst first, at most ten in sight, the rest in a fold."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from perf.alerts import markdown
from perf.alerts.markdown import code
from perf.compare import record
from perf.compare.record import ALARMS, PRESSING, Finding
from perf.report.units import change_in_percent, with_unit

SHOWN, FOLDED = 10, 40  # rows; GitHub takes 65536 characters
WHY = 160  # characters
RIGHT = ("base", "head")

Cell = Callable[[Finding], str]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Sorts by word, the worst first; among equal words by how far the ratio is from 1."""
    return sorted(findings, key=lambda f: (PRESSING.index(f.word), -abs(math.log(f.ratio)) if f.ratio else 0.0,
                                           f.benchmark, f.figure))


def table(findings: Iterable[Finding], more: dict[str, Cell] | None = None) -> str:
    """Writes a table of at most ten, then a fold with the rest; `more` are columns before the reason."""
    rows = ordered(findings)
    columns: dict[str, Cell] = {
        "benchmark": name, "base": lambda f: with_unit(f.base, f.unit), "head": lambda f: with_unit(f.head, f.unit),
        "change": change, **(more or {}), "why": lambda f: code(f.why, WHY)}
    parts = [_table(rows[:SHOWN], columns)] if rows else []
    if rest := rows[SHOWN:]:
        inside = _table(rest[:FOLDED], columns)
        if left := len(rest) - FOLDED:
            inside += f"\n\nand {left} more, in the record" if left > 0 else ""
        parts.append(markdown.fold(f"{len(rest)} more", inside))
    return "\n\n".join(parts)


def _table(rows: Sequence[Finding], columns: dict[str, Cell]) -> str:
    return markdown.table(tuple(columns), [[cell(f) for cell in columns.values()] for f in rows], RIGHT)


def name(f: Finding) -> str:
    """Names the benchmark, and the figure if it is not its time."""
    return code(f.benchmark) if f.figure == "time" else f"{code(f.benchmark)}, {code(f.figure)}"


def change(f: Finding) -> str:
    """Writes head over base: "**+7.2 %** [+6.1, +8.4]"; the word alone if there is no ratio."""
    if f.ratio is None:
        return f.word
    text = f"{change_in_percent(f.ratio)} %"
    if f.word in ALARMS:
        text = f"**{text}**"
    if f.low is not None and f.high is not None:
        text += f" [{change_in_percent(f.low)}, {change_in_percent(f.high)}]"
    return text if f.word in (*ALARMS, "improved", "ok") else f"{text}, {f.word}"


def counts(findings: Iterable[Finding]) -> str:
    """Writes "40 benchmarks: 1 regressed, 39 ok", each by the worst word of its figures; in the terminal's order."""
    return record.counts(record.worst_words(findings))
