"""Draws a line of text's height that shows how a figure went over the commits."""
from __future__ import annotations

import statistics
from collections.abc import Sequence

from perf.web.page.markup import Markup, tag

WIDTH, HEIGHT, EDGE = 96, 22, 3
MOST = 60  # values
CALM = 0.1  # of the median: a range that is smaller is drawn as small as it is


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
