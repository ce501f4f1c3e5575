"""Draws TFLOP/s over n from evidence: a panel a shape, a line a backend.

    python -m perf plot .perf/evidence.jsonl --function softmax --phase forward -o docs/softmax.png
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perf.measure.evidence import Evidence
from perf.report.plot_figure import STYLE, Lines, draw, lengths
from perf.workloads.workload import FORMULA, Workload

SOFTWARE = {"driver": "driver", "cuda": "CUDA", "cudnn": "cuDNN", "torch": "torch", "triton": "triton",
            "flash-attn": "flash-attn", "python": "Python"}
GPU_ONLY = ("driver", "cuda", "cudnn", "triton", "flash-attn")


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
