"""Draws the figure of a plot: one panel a shape, one line a backend, the machine below them."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perf.measure.evidence import Evidence
from perf.report.styles import Style, backend_styles
from perf.report.table import title
from perf.report.units import length, tflops
from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, list[Evidence]]  # backend -> its points in the order of n

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "lines.linewidth": 1.6, "lines.markersize": 5.5, "legend.frameon": False, "svg.hashsalt": "perf",
    "svg.fonttype": "none",  # text as text: a tenth of the size of outlines
}
HOLLOW: Any = {"markerfacecolor": "none", "markersize": 9}  # of a dotted line
LIMIT: Any = {"color": "#777777", "linewidth": 1.1, "linestyle": (0, (6, 2))}


def ceiling(row: Evidence) -> float | None:
    """Returns the TFLOP/s that this machine's measured ceilings allow a row; None where they are not known."""
    return row.flops / row.floor / 1e12 if row.flops and row.floor else None


def lengths(lines: Lines) -> list[int]:
    """Lists every n at which a backend was measured."""
    return sorted({row.workload.n for points in lines.values() for row in points})


def draw(panels: Mapping[Workload, Lines], note: str) -> Figure:
    """Draws the panels, one legend, and `note` below them. Call it under `STYLE`."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns + 1.4, 2.9 * height + 0.5), layout="constrained", facecolor="white")
    comparable = len({w.function for w in panels}) == 1
    axes = figure.subplots(height, columns, squeeze=False, sharey="row" if comparable else False).flatten()
    styles = backend_styles({backend for lines in panels.values() for backend in lines})
    handles: dict[str, Any] = {}
    for ax, (shape, lines) in zip(axes, panels.items(), strict=False):
        _panel(ax, shape, lines, styles, handles)
    for ax in axes:
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])  # after all panels of a row have had their say
    for ax in axes[len(panels):]:
        ax.remove()
    for ax in axes[:len(panels):columns]:
        ax.set_ylabel("TFLOP/s")
    names = [name for name in (*styles, "limit") if name in handles]
    figure.legend([handles[name] for name in names], names, loc="outside right center", handlelength=2.6)
    figure.supxlabel(note, fontsize=7.5, color="#444444", x=0.01, ha="left")
    return figure


def _panel(ax: Axes, w: Workload, lines: Lines, styles: Mapping[str, Style], handles: dict[str, Any]) -> None:
    ticks = lengths(lines)
    limits = {row.workload.n: rate for points in lines.values() for row in points if (rate := ceiling(row))}
    if len(limits) == len(ticks):
        (handles["limit"],) = ax.plot(ticks, [limits[n] for n in ticks], **LIMIT)
    for backend, points in lines.items():
        style = styles[backend]
        (handles[backend],) = ax.plot(
            [row.workload.n for row in points], [tflops(row) or math.nan for row in points], clip_on=False,
            color=style.light, marker=style.marker, linestyle=style.line, **(HOLLOW if style.line == ":" else {}))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, list(map(length, ticks)))
    ax.minorticks_off()
    ax.set_xlabel("n")
    ax.set_title(title(w))
