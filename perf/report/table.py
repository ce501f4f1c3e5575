"""The table that ends a run. Only backends of the same workload stand together and are compared.

A pure function: evidence in, text out, at most `WIDTH` columns wide.
"""
from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perf.cells import FORMULA, MODEL_FORMULA, Workload
from perf.measure.evidence import Evidence
from perf.measure.foreign import TOLERATED

WIDTH = 120
BASELINES = ("eager", "sdpa")
HEADER = ("backend", "n", "b", "time ", "iqr", "speed-up ", "TFLOP/s", "GB/s", "peak", "error", "allowed")
ALIGN = "{:<16}{:>7}{:>5}{:>12}{:>6}{:>10}{:>9}{:>8}{:>11}{:>10}{:>10}"


def table(rows: Sequence[Evidence]) -> str:
    """The measured rows by section and group, what was skipped and why, and how to read it."""
    shown = [row for row in rows if row.outcome != "skipped"]
    lines = [line for section in _by(shown, _section).values() for line in _section_lines(section)]
    if shown:
        lines += _wrapped(_legend(shown))
    lines += skipped(rows)
    return "\n".join(lines)


def _by(rows: Iterable[Evidence], key) -> dict[Workload, list[Evidence]]:
    groups: dict[Workload, list[Evidence]] = {}
    for row in rows:
        groups.setdefault(key(row.workload), []).append(row)
    return groups


def _section(w: Workload) -> Workload:
    """A section's rows differ in backend, n and b."""
    return replace(w.group, n=0, batch=0, m=0 if w.m == w.n else w.m)


def _section_lines(rows: Sequence[Evidence]) -> list[str]:
    w = rows[0].workload
    model = "" if w.bare else f"{w.model}: "
    heads = f"{w.heads} heads" if w.heads == w.kv_heads else f"{w.heads} heads ({w.kv_heads} kv)"
    keys = f", {w.m} keys" if w.m != w.n else ""
    mask = "causal" if w.causal else "full"
    title = f" {model}{w.function} {w.phase}, {mask}, {heads} x {w.head_dim}{keys}, {w.dtype} "
    lines = [title.center(WIDTH, "-"), ALIGN.format(*HEADER)]
    groups = _by(rows, lambda w: w.group)
    for group in sorted(groups.values(), key=lambda group: (group[0].workload.n, group[0].workload.batch)):
        base = baseline(group)
        lines += [_row(row, base) for row in group]
    return [*lines, ""]


def baseline(group: Sequence[Evidence]) -> Evidence | None:
    """What the others of a group are compared with: eager, else sdpa, else the first; None if all are wrong."""
    timed = {row.workload.backend: row for row in group if row.median}
    return next((timed[name] for name in (*BASELINES, *timed) if name in timed), None)


def _row(row: Evidence, base: Evidence | None) -> str:
    w = row.workload
    error = [_number(row.error, ".1e"), _number(row.bound, ".1e")]
    if not row.median:
        return ALIGN.format(w.backend, w.n, w.batch, row.outcome.upper() + " ", *[""] * 5, *error).rstrip()
    time = seconds(row.median) + ("!" if _in_company(row) else " ")
    spread = f"{(row.iqr or 0) / row.median:.0%}"
    speed_up = f"{base.median / row.median:.2f}" if base and base.median else "-"
    return ALIGN.format(
        w.backend, w.n, w.batch, time, spread, speed_up + ("*" if row is base else " "),
        _number(row.flops and row.flops / row.median / 1e12, "#.3g"),
        _number(row.bytes and row.bytes / row.median / 1e9, "#.3g"), size(row.peak_bytes), *error)


def _in_company(row: Evidence) -> bool:
    return (row.foreign_cores or 0) > TOLERATED and not (row.clock or "").startswith("cuda")


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else format(value, form).rstrip(".")


def seconds(value: float) -> str:
    """"1.23 ms", three or four digits in the unit that suits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:#.4g} {unit}"
    return f"{value * 1e6:#.4g} us"


def size(value: int | None) -> str:
    """"12.6 MB" (a million bytes)."""
    if value is None:
        return "-"
    unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 0)) if value >= f)
    return f"{value / (factor or 1e3):.1f} {unit}"


def _legend(rows: Sequence[Evidence]) -> list[str]:
    formula = FORMULA if all(row.workload.bare for row in rows) else f"{FORMULA}; {MODEL_FORMULA}"
    company = sum(map(_in_company, rows))
    warning = [f"! {company} of {len(rows)} measured while other processes kept more than {TOLERATED:g} of a core "
               "busy: don't trust their times."] if company else []
    return [*warning, f"{formula}.",
            "GB/s = inputs read once + outputs written once. Time is the median, iqr its interquartile range. "
            "Speed-up = baseline's time / this time; * marks the baseline (eager, else sdpa, else the first). "
            "Peak is allocated during the call or kept between calls (a mask). Error is the largest difference to "
            "the float64 oracle, relative to the values of its row (of a model: to its largest output)."]


def skipped(rows: Iterable[Evidence]) -> list[str]:
    """One counted line a reason; reasons that differ in numbers only are one."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in rows:
        if row.outcome == "skipped":
            reason = row.reason or "no reason given"
            kind = re.sub(r"\d+", "#", reason)
            first.setdefault(kind, reason)
            counts[kind] += 1
    return _wrapped(f"{count} skipped: {first[kind]}" for kind, count in counts.most_common())


def _wrapped(paragraphs: Iterable[str]) -> list[str]:
    return [line for text in paragraphs for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]
