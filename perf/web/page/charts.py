"""Draws one log-log chart as SVG: a line a backend, the limit above them; colours and sizes are the style sheet's.

Classes: `k0`, `k1`, ... is a backend's colour, `pt` a point that carries the row it stands for.
"""
from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perf.report.styles import Style
from perf.web.page.markup import Markup, tag

WIDTH, HEIGHT = 400, 262
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 24, 30
DASHES = {":": "1.5 4", "--": "6 4"}

# Markers of the same area around (0, 0), by matplotlib's letters.
MARKERS = {
    "o": "M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z", "s": "M-3.6-3.6h7.2v7.2h-7.2z", "D": "M0-5.6L5.6,0L0,5.6L-5.6,0z",
    "<": "M4-4.6V4.6L-5,0z", ">": "M-4-4.6V4.6L5,0z", "^": "M-4.6,4H4.6L0-5z", "v": "M-4.6-4H4.6L0,5z",
    "P": "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
    "X": "M-5-2.8L-2.8-5L0-2.2L2.8-5L5-2.8L2.2,0L5,2.8L2.8,5L0,2.2L-2.8,5L-5,2.8L-2.2,0z",
    "p": "M0-5L4.8-1.5L2.9,4H-2.9L-4.8-1.5z", "h": "M0-5L4.3-2.5V2.5L0,5L-4.3,2.5V-2.5z",
    "*": "M0-6L1.5-2H5.7L2.4,.7L3.6,4.8L0,2.3L-3.6,4.8L-2.4,.7L-5.7-2H-1.5z", "d": "M0-6L3.6,0L0,6L-3.6,0z",
}


@dataclass(frozen=True)
class Point:
    """Is a row on a chart: its place in the units of the axes, its label, and the number of the row."""

    x: float
    y: float
    label: str
    row: int


@dataclass(frozen=True)
class Axis:
    """Is a logarithmic axis: its ends, its ticks with their labels, its title."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    title: str

    def part(self, value: float) -> float:
        """Returns how far `value` lies between the ends, 0 to 1."""
        return math.log(value / self.low) / math.log(self.high / self.low)


def decades(values: Iterable[float], title: str) -> Axis:
    """Makes an axis over all `values` (above 0), with ticks at 1, 10, 100, or at 1, 2, 5 if that leaves fewer than
    three."""
    numbers = list(values)
    low, high = min(numbers) / 1.25, max(numbers) * 1.25
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [step * 10.0 ** e for e in exponents for step in steps if low <= step * 10.0 ** e <= high]
        if len(ticks) > 2:
            break
    return Axis(low, high, [(tick, f"{tick:.10g}" if 1e-3 <= tick < 1e5 else f"{tick:.0e}") for tick in ticks], title)


def chart(lines: Mapping[str, Sequence[Point]], styles: Mapping[str, Style], x: Axis, y: Axis, *, label: str,
          limit: Sequence[tuple[float, float]] = ()) -> Markup:
    """Draws the lines of `label` by backend; `limit` is drawn as a line that the others can't pass."""
    def place(at_x: float, at_y: float) -> tuple[str, str]:
        return (f"{LEFT + x.part(at_x) * (WIDTH - LEFT - RIGHT):.1f}",
                f"{HEIGHT - BOTTOM - y.part(at_y) * (HEIGHT - TOP - BOTTOM):.1f}")

    parts = [_grid(x, y, place)]
    if limit:
        corners = [place(*point) for point in limit]
        above = [(corners[-1][0], f"{TOP}"), (corners[0][0], f"{TOP}")]
        parts += [tag("polygon", class_="beyond", points=_path([*corners, *above])),
                  tag("polyline", class_="limit", points=_path(corners))]
    for backend, points in lines.items():
        places = [place(point.x, point.y) for point in points]
        line = tag("polyline", points=_path(places), stroke_dasharray=DASHES.get(styles[backend].line))
        marks = [tag("use", href=f"#{symbol(styles[backend])}", x=at[0], y=at[1], class_="pt", role="img",
                     aria_label=f"{backend}: {point.label}", data_r=point.row)
                 for at, point in zip(places, points, strict=True)]
        parts.append(tag("g", line, *marks, class_=f"series {key(backend, styles)}"))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", tabindex="0", role="group",
               aria_label=f"{label}. Arrow keys move between its points, Enter goes to the row.")


def key(backend: str, styles: Mapping[str, Style]) -> str:
    """Returns the class that gives a backend its colour."""
    return f"k{list(styles).index(backend)}" + (" hollow" if styles[backend].line == ":" else "")


def dot(backend: str, styles: Mapping[str, Style]) -> Markup:
    """Draws a dot in a backend's colour."""
    return tag("i", class_=f"dot {key(backend, styles)}")


def symbol(style: Style) -> str:
    """Returns the id of a marker: its letter's number, as ids aren't told apart by case everywhere."""
    return f"m{ord(style.marker)}"


def symbols(styles: Mapping[str, Style]) -> Markup:
    """Draws the markers that the charts use, out of sight."""
    shapes = (tag("path", d=MARKERS[style.marker], id=symbol(style))
              for style in {style.marker: style for style in styles.values()}.values())
    return tag("svg", tag("defs", *shapes), class_="defs", width="0", height="0", aria_hidden="true")


def legend(drawn: Collection[str], styles: Mapping[str, Style], label: str, *others: Markup | None) -> Markup:
    """Makes a button for each name that is drawn, which hides its lines; `others` stand behind them."""
    chips = [tag("button", swatch(name, styles), name, type="button", class_="chip", aria_pressed="true",
                 data_k=f"k{i}") for i, name in enumerate(styles) if name in drawn]
    return tag("div", *chips, *others, class_="legend", role="group", aria_label=label)


def swatch(backend: str, styles: Mapping[str, Style]) -> Markup:
    """Draws a piece of a backend's line with its marker."""
    style = styles[backend]
    return tag("svg", tag("g", tag("polyline", points="1,7 29,7", stroke_dasharray=DASHES.get(style.line)),
                          tag("use", href=f"#{symbol(style)}", x="15", y="7", class_="mark"),
                          class_=f"series {key(backend, styles)}"), viewBox="0 0 30 14", class_="swatch",
               aria_hidden="true")


def _path(points: Iterable[tuple[str, str]]) -> str:
    return " ".join(",".join(point) for point in points)


def _grid(x: Axis, y: Axis, place) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [tag("text", f"{y.title} over {x.title}", x="4", y="13")]
    for tick, text in y.ticks:
        at = place(x.low, tick)[1]
        parts += [tag("line", x1=LEFT, x2=right, y1=at, y2=at),
                  tag("text", text, x=LEFT - 7, y=at, dy=".32em", text_anchor="end")]
    for tick, text in x.ticks:
        at = place(tick, y.low)[0]
        parts += [tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 4),
                  tag("text", text, x=at, y=bottom + 17, text_anchor="middle")]
    return tag("g", *parts, class_="grid", aria_hidden="true")
