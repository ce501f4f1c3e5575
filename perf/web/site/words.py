"""Writes figures, units and changes in words, the same in every part of the front page."""
from __future__ import annotations

from perf.report.table import title
from perf.report.units import UNKNOWN, change_in_percent, length, number, seconds, size
from perf.workloads.workload import Workload

NAMES = {"time_call": "time", "track_peak_bytes": "peak memory", "track_error": "error", "track_launches": "launches"}
LOWER, HIGHER = "lower is better", "higher is better"


def full_title(w: Workload) -> str:
    """Writes "fa2: softmax forward, causal, 16 heads x 128, bf16, n 2K, batch 8"."""
    return f"{w.backend}: {title(w)}, n {length(w.n)}, batch {w.batch}"


def figure_name(figure: str) -> str:
    """Returns asv's name of a figure in words: "time", "peak memory", "host time"."""
    return NAMES.get(figure, figure.removeprefix("track_").replace("_", " "))


def figure_text(value: float | None, unit: str) -> str:
    """Returns a value with its unit: "1.23 ms", "12.6 MB", "0.250"."""
    if value is None:
        return UNKNOWN
    if unit in ("seconds", "bytes"):
        return seconds(value) if unit == "seconds" else size(value)
    return number(value) if value != int(value) else f"{value:.0f}"


def rate(value: float) -> str:
    """Writes "12.3 M" for a count a second."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            return f"{value / factor:#.3g} {unit}".replace(". ", " ")
    return f"{value:#.3g}".rstrip(".")


def change(ratio: float) -> str:
    """Writes "+7.2%" for a ratio of 1.072, and "11x" from a doubling on."""
    if ratio >= 2:
        return f"{ratio:.3g}x"
    return f"{change_in_percent(ratio)}%"
