"""Writes the tables that the README and the docs show: the variants, from the registry and from records of what is
faster than softmax; races and invariance, from a record of `python -m perf invariance` (docs/invariance.md)."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attention
from attention.registry import Function, functions
from perf.bench.invariance import CHECKS, Finding
from perf.measure.evidence import Evidence, load
from perf.system import files

RECORDS = Path(__file__).parents[1] / "records"  # what "faster" is read from, all of one kind of machine
EVIDENCE = ("h100-*/default-grid*.jsonl.gz", "h100-*/field*.jsonl.gz")
HEADER = ("function", "kind", "paper", "cost", "backends", "faster than softmax")


def variants_table(rows: Sequence[Evidence] = ()) -> str:
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
    paper = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", function.paper)
    return f"`{function.name}`", function.kind, paper, function.cost, backends, winners.get(function.name, "-")


def published_rows() -> list[Evidence]:
    """Returns the evidence that the published table is made from."""
    return [row for pattern in EVIDENCE for path in sorted(RECORDS.glob(pattern)) for row in load(path)]


def load_invariance(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Reads a record: the machine and the case it was made of, and the findings. Raises ValueError for another file."""
    with files.open_bytes(path) as file:
        lines = file.read().splitlines()
    try:
        head, *rows = [files.from_json(line.decode()) for line in lines]
        findings = [Finding(**row) for row in rows]
        for finding in findings:
            files.check_types(finding)
            if finding.reason is None and set(finding.differences) != set(CHECKS):
                raise ValueError
        if head["kind"] == "invariance":
            return head, findings
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path} is no record of python -m perf invariance")


def invariance_table(findings: Iterable[Finding]) -> str:
    """Writes a line a variant and phase in Markdown; variants that can't run there are left out."""
    lines = [f"| variant | phase | {' | '.join(CHECKS)} |", "|---" * (2 + len(CHECKS)) + "|"]
    for finding in findings:
        if finding.reason is None:
            cells = (difference(finding.differences[check]) for check in CHECKS)
            lines.append(f"| {finding.variant} | {finding.phase} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(value: float | None) -> str:
    """Writes a difference as "same", "6e-08", or "-" where the check has no meaning."""
    return "-" if value is None else f"{value:.0e}" if value else "same"


def invariance_summary(findings: Iterable[Finding]) -> str:
    """Counts, in a sentence, how many variants and phases give the same bits in each check."""
    examined = [finding for finding in findings if finding.reason is None]
    parts = []
    for check in CHECKS:
        values = [finding.differences[check] for finding in examined if finding.differences[check] is not None]
        if values:
            parts.append(f"{check} {sum(not value for value in values)} of {len(values)}")
    return f"{len(examined)} variants and phases; the same bits: {', '.join(parts)}."
