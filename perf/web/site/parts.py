"""Makes what sections of the front page share: times, commits, tables and small lines, and figures in words."""
from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence

from perf.report.table import title
from perf.report.units import change_in_percent, length
from perf.web.page.markup import Markup, join, tag
from perf.workloads.workload import Workload

WIDTH, HEIGHT, EDGE = 96, 22, 3  # of a line of a text's height
MOST = 60  # values
CALM = 0.1  # of the median: a range that is smaller is drawn as small as it is
NAMES = {"time_call": "time", "track_peak_bytes": "peak memory", "track_error": "error", "track_launches": "launches"}
LOWER, HIGHER = "lower is better", "higher is better"


def moment(seconds: float, text: str) -> Markup:
    """Writes a time, beside which the page's script says how long ago that is."""
    return tag("time", text, data_t=f"{seconds:.0f}")


def commit(revision: str, on_page: Collection[str]) -> Markup:
    """Writes a commit by its first digits, as a link if it is among the commits `on_page` (by eight digits) on the
    page."""
    name = revision[:8]
    return link_to(name, f"#commit-{name}" if name in on_page else None)


def link_to(text: str, address: str | None) -> Markup:
    """Writes a text, as a link if it has an address."""
    return tag("a", text, href=address) if address else join([text])


def sparkline(values: Sequence[float]) -> Markup | None:
    """Draws the last values, the oldest first; None for fewer than two."""
    last = values[-MOST:]
    if len(last) < 2:
        return None
    middle = statistics.median(last)
    low, high = min(*last, middle * (1 - CALM)), max(*last, middle * (1 + CALM))
    across, up, span = (WIDTH - 2 * EDGE) / (len(last) - 1), HEIGHT - 2 * EDGE, (high - low) or 1
    points = [(f"{EDGE + across * i:.0f}", f"{HEIGHT - EDGE - up * ((value - low) / span):.1f}")
              for i, value in enumerate(last)]
    x, y = points[-1]
    return tag("svg", tag("polyline", points=" ".join(map(",".join, points))), tag("circle", cx=x, cy=y, r="2.4"),
               viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="spark", aria_hidden="true")


def full_title(w: Workload) -> str:
    """Writes "fa2: softmax forward, causal, 16 heads x 128, bf16, n 2K, batch 8"."""
    return f"{w.backend}: {title(w)}, n {length(w.n)}, batch {w.batch}"


def figure_name(figure: str) -> str:
    """Returns asv's name of a figure in words: "time", "peak memory", "host time"."""
    return NAMES.get(figure, figure.removeprefix("track_").replace("_", " "))


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
