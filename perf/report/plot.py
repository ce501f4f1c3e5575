"""Draws TFLOP/s over n from evidence: a panel a shape, a line a backend, the machine below them.

    python -m perf plot .perf/evidence.jsonl --function softmax --phase forward -o docs/softmax.png
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.measure.evidence import Evidence
from perf.report.styles import Style, backend_styles
from perf.report.table import title
from perf.report.units import length, tflops
from perf.workloads.workload import FORMULA, Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFTWARE = {"driver": "driver", "cuda": "CUDA", "cudnn": "cuDNN", "torch": "torch", "triton": "triton",
            "flash-attn": "flash-attn", "python": "Python"}
GPU_ONLY = ("driver", "cuda", "cudnn", "triton", "flash-attn")


Lines = dict[str, list[Evidence]]  # backend -> its points in the order of n

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "lines.linewidth": 1.6, "lines.markersize": 5.5, "legend.frameon": False, "svg.hashsalt": "perf",
    "svg.fonttype": "none",  # text as text: a tenth of the size of outlines
}
HOLLOW: Any = {"markerfacecolor": "none", "markersize": 9}  # of a dotted line
LIMIT: Any = {"color": "#777777", "linewidth": 1.1, "linestyle": (0, (6, 2))}


def shapes(rows: Iterable[Evidence]) -> dict[Workload, Lines]:
    """Groups the timed rows with as many keys as queries by shape and phase, then backend, in the order of n.

    Shapes with one length are left out. At each n all backends have the same batch: the one that most
    of them were measured at, of several the largest. What was measured twice counts as the last time.
    """
    by_shape: dict[Workload, dict[int, dict[int, dict[str, Evidence]]]] = {}
    for row in rows:
        w = row.workload
        if row.outcome == "ok" and row.median and row.flops and w.n == w.m:
            shape = replace(w, backend="", n=0, m=0, batch=0)
            by_shape.setdefault(shape, {}).setdefault(w.n, {}).setdefault(w.batch, {})[w.backend] = row
    lines_by_shape: dict[Workload, Lines] = {}
    for shape, by_length in by_shape.items():
        for _, batches in sorted(by_length.items()):
            _, points = max(batches.items(), key=lambda batch: (len(batch[1]), batch[0]))
            for backend, row in points.items():
                lines_by_shape.setdefault(shape, {}).setdefault(backend, []).append(row)
    return {shape: lines for shape, lines in lines_by_shape.items() if len(lengths(lines)) > 1}


def panels(rows: Iterable[Evidence], functions: Sequence[str], phase: str) -> dict[Workload, Lines]:
    """Returns the `shapes` of bare kernels that compute one of `functions` in this phase, in the order of
    `functions`."""
    chosen = shapes(row for row in rows if row.workload.bare and row.workload.phase == phase
                   and row.workload.function in functions)
    return {w: chosen[w] for w in sorted(chosen, key=lambda w: (functions.index(w.function), w.head_dim, not w.causal,
                                                              w.heads))}


def caption(machine: Mapping[str, Any], rows: Sequence[Evidence]) -> str:
    """Says where and how `rows` were measured, in two lines."""
    gpus = machine.get("gpus")
    where = list(dict.fromkeys(gpus)) if gpus else [str(machine.get("cpu")), f"{machine.get('threads')} threads"]
    versions = [f"{label} {machine[key]}" for key, label in SOFTWARE.items()
                if machine.get(key) and (gpus or key not in GPU_ONLY)]
    limit = " The limit is set by the measured ceilings." if any(row.floor for row in rows) else ""
    clocks = ", ".join(dict.fromkeys(row.clock or "an unknown clock" for row in rows))
    return f"{', '.join([*where, *versions])}\n{load_of(rows)}; medians, {clocks}. {FORMULA}.{limit}"


def load_of(rows: Sequence[Evidence]) -> str:
    """Writes "batch x n = 16384", "batch 4", "batch 1 to 8"."""
    tokens, batches = ({row.workload.batch * row.workload.n for row in rows}, {row.workload.batch for row in rows})
    if len(tokens) == 1:
        return f"batch x n = {tokens.pop()}"
    return f"batch {min(batches)}" + (f" to {max(batches)}" if len(batches) > 1 else "")


def write(panels: Mapping[Workload, Lines], note: str, path: Path) -> None:
    """Draws into `path` with the endings .png and .svg; the same evidence gives the same bytes."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("matplotlib is missing; pip install 'attention-perf[site]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = draw(panels, note)
        figure.savefig(path.with_suffix(".png"), dpi=160)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    print(f"{path.with_suffix('.png')} and {path.with_suffix('.svg')}")


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
