"""The look of a plot: one panel a shape, one line a backend, where it was measured below."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from perf.cells import Workload
from perf.measure.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, list[Evidence]]  # backend -> its points in the order of n

# A backend looks the same in every plot. The colours are Okabe and Ito's (jfly.uni-koeln.de/color), which
# the colour-blind tell apart, without their yellow, which white hides; no two backends share a marker.
# sdpa, which picks another backend, is hollow and dotted: what it picks shows through.
LOOKS = {
    "eager": ("#000000", "o"), "tiled": ("#595959", "s"), "sdpa": ("#0072B2", "D"), "sdpa-math": ("#8C510A", "<"),
    "sdpa-flash": ("#56B4E9", "^"), "sdpa-efficient": ("#009E73", "v"), "sdpa-cudnn": ("#CC79A7", "P"),
    "fa2": ("#D55E00", "X"), "flex": ("#E69F00", ">"),
}
HOLLOW = {"linestyle": ":", "markerfacecolor": "none", "markersize": 9}
OTHERS = (("#332288", "p"), ("#8800EE", "h"), ("#999933", "*"), ("#117733", "d"))  # other packages': dashed

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "lines.linewidth": 1.6, "lines.markersize": 5.5, "legend.frameon": False, "svg.hashsalt": "perf",
}


def looks(backends: Collection[str]) -> dict[str, dict[str, Any]]:
    """How matplotlib draws the line of each backend, in a fixed order."""
    known = {name: {"color": color, "marker": marker, **(HOLLOW if name == "sdpa" else {})}
             for name, (color, marker) in LOOKS.items() if name in backends}
    others = {name: dict(zip(("color", "marker"), OTHERS[i % len(OTHERS)], strict=True), linestyle="--")
              for i, name in enumerate(sorted(set(backends) - set(LOOKS)))}
    return known | others


def tflops(row: Evidence) -> float:
    """TFLOP/s of a timed row."""
    assert row.flops
    assert row.median
    return row.flops / row.median / 1e12


def lengths(lines: Lines) -> list[int]:
    """Every n at which a backend was measured."""
    return sorted({row.workload.n for points in lines.values() for row in points})


def draw(shown: Mapping[Workload, Lines], note: str) -> Figure:
    """The panels, one legend, and `note` below them. Call it under `STYLE`."""
    from matplotlib.figure import Figure

    columns = min(2, len(shown))
    height = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns + 1.4, 2.9 * height + 0.5), layout="constrained", facecolor="white")
    comparable = len({w.function for w in shown}) == 1
    axes = figure.subplots(height, columns, squeeze=False, sharey="row" if comparable else False).flatten()
    styles = looks({backend for lines in shown.values() for backend in lines})
    handles: dict[str, Any] = {}
    for ax, (shape, lines) in zip(axes, shown.items(), strict=False):
        _panel(ax, shape, lines, styles, handles)
    for ax in axes:
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])  # after all panels of a row have had their say
    for ax in axes[len(shown):]:
        ax.remove()
    for ax in axes[:len(shown):columns]:
        ax.set_ylabel("TFLOP/s")
    figure.legend([handles[name] for name in styles], list(styles), loc="outside right center", handlelength=2.6)
    figure.supxlabel(note, fontsize=7.5, color="#444444", x=0.01, ha="left")
    return figure


def _panel(ax: Axes, w: Workload, lines: Lines, styles: Mapping[str, Any], handles: dict[str, Any]) -> None:
    for backend, points in lines.items():
        (handles[backend],) = ax.plot([row.workload.n for row in points], [tflops(row) for row in points],
                                      clip_on=False, **styles[backend])
    ticks = lengths(lines)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{n // 1024}K" if n % 1024 == 0 else str(n) for n in ticks])
    ax.minorticks_off()
    ax.set_xlabel("n")
    heads = f"{w.heads} heads" if w.heads == w.kv_heads else f"{w.heads} heads ({w.kv_heads} kv)"
    ax.set_title(f"{w.function} {w.phase}, {'causal' if w.causal else 'full'}, {heads} x {w.head_dim}, {w.dtype}")
