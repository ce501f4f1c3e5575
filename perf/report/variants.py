"""Writes the table of variants that the README shows, from the registry."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import attention
from attention.registry import Function, functions
from perf.measure.evidence import Evidence, load

RECORDS = Path(__file__).parents[1] / "records"  # what "faster" is read from, all of one kind of machine
EVIDENCE = ("h100-*/default-grid*.jsonl.gz", "h100-*/field*.jsonl.gz")
HEADER = ("function", "kind", "paper", "cost", "backends", "faster than softmax")


def table(rows: Sequence[Evidence] = ()) -> str:
    """Writes a Markdown table: one row a function, what it is, the backends that compute it, where it wins in
    `rows`."""
    winners = wins(rows)
    lines = [HEADER, ("---",) * len(HEADER), *(_row(function, winners) for function in functions().values())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def wins(rows: Sequence[Evidence]) -> dict[str, str]:
    """Says, by function, from which n on its fastest backend's forward pass beats the fastest of softmax, at equal
    tokens.

    Only where both were timed in one mask and shape; "never (to n)" where softmax won at every length.
    """
    best: dict[tuple, float] = {}
    for row in rows:
        w = row.workload
        if row.outcome == "ok" and row.median and w.bare and w.phase == "forward":
            key = w.function, w.causal, w.n, w.m, w.batch, w.heads, w.head_dim, w.dtype
            best[key] = min(row.median, best.get(key, row.median))
    gains: dict[str, dict[int, float]] = {}
    for (function, *shape), seconds in best.items():
        softmax = best.get(("softmax", *shape))
        if softmax and function != "softmax":
            m = shape[2]
            gains.setdefault(function, {})[m] = max(softmax / seconds, gains.get(function, {}).get(m, 0.0))
    return {function: _from(ratios) for function, ratios in gains.items()}


def _from(ratios: Mapping[int, float]) -> str:
    lengths = sorted(ratios)
    losing = [n for n in lengths if ratios[n] <= 1]
    after = [n for n in lengths if not losing or n > losing[-1]]
    if not after:
        return f"never (to {lengths[-1]})"
    return f"from {after[0]}: {ratios[after[-1]]:.1f}x at {after[-1]}"


def _row(function: Function, winners: Mapping[str, str]) -> tuple[str, ...]:
    backends = ", ".join(f"`{name.partition(':')[2]}`" for name in attention.names(function.name))
    return (f"`{function.name}`", function.kind, _link_paper(function.paper), function.cost, backends,
            winners.get(function.name, "-"))


def _link_paper(paper: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def published_rows() -> list[Evidence]:
    """Returns the evidence that the published table is made from."""
    return [row for pattern in EVIDENCE for path in sorted(RECORDS.glob(pattern)) for row in load(path)]
