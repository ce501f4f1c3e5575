"""Writes the short table that ends a run of many rows: a line a comparison, its fastest backend first.

A pure function: evidence in, lines out, at most `WIDTH` columns wide. `table.py` shows every column of every row.
"""
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from perf.measure.evidence import Evidence
from perf.report import models_table
from perf.report.notes import KERNEL_NOTE, LIMITS, doubt
from perf.report.table import WIDTH, groups, mask
from perf.report.units import heads, largest_kernel, length, number, percent, row_text, seconds, share
from perf.workloads.workload import Workload

COLUMNS = {"": "<32", "n": ">7", "b": ">4", "  fastest": "<16", "time ": ">11", "±": ">5", "limit ": ">8",
           "attn": ">6", "  largest kernel": "<25"}
INDENT = " " * 45  # of the others, below the fastest

LEGEND = ("Time is the median, ± half of its 95 % interval; below stand the others, which take so many times "
          "as long. Limit is how near it comes to the least time that this machine's memory (b) or arithmetic (F) "
          f"allows; attn is attention's share of a model's step; 24/192 is n / keys. {KERNEL_NOTE}")


def lines(rows: Sequence[Evidence]) -> list[str]:
    """Returns a line for each comparison, by shape; a treated model stands against the model it was done to."""
    timed = models_table.by_workload(rows)
    sections: dict[str, list[str]] = {}
    for group in groups(row for row in rows if row.outcome != "skipped"):
        w = group[0].workload
        section = f"{'kernels' if w.bare else 'models'}: {heads(w)} x {w.head_dim}, {w.dtype}"
        sections.setdefault(section, []).extend(_comparison(group, timed))
    return [line for name, section_lines in sections.items() for line in (
        row_text({**{column: column for column in COLUMNS}, "": name}, COLUMNS).rstrip(), *section_lines, "")]


def _comparison(group: Sequence[Evidence], timed: Mapping[Workload, Evidence]) -> list[str]:
    w = group[0].workload
    ranked = sorted((row for row in group if row.workload in timed), key=lambda row: row.median or 0)
    failed = [f"{row.workload.backend} {row.outcome.upper()}" for row in group if row.workload not in timed]
    cells: dict[str, object] = {"": _name(w), "b": w.batch,
                                "n": length(w.n) + ("" if w.m == w.n else f"/{length(w.m)}")}
    if not ranked:
        return [f"{row_text(cells, COLUMNS).rstrip()}  {', '.join(failed)}"]
    best = ranked[0]
    base = models_table.reference(best.workload, timed)
    others = [f"{row.workload.backend} {number((row.median or 0) / (best.median or 1), '.2f')}{_mark(row)}"
              for row in ranked[1:]]
    cells |= {"  fastest": f"  {best.workload.backend}", "time ": seconds(best.median) + (_mark(best) or " "),
              "±": percent(best.interval), "limit ": f"{percent(share(best))} {LIMITS.get(best.limit or '', ' ')}",
              "attn": "" if w.bare else percent(best.attention_share), "  largest kernel": f"  {largest_kernel(best)}"}
    text = ", ".join([*others, *failed, *([models_table.against(best, base)] if w.treatment else [])])
    return [row_text(cells, COLUMNS).rstrip(), *textwrap.wrap(text, WIDTH, initial_indent=INDENT,
                                                            subsequent_indent=INDENT)]


def _mark(row: Evidence) -> str:
    return "!" if doubt(row) else ""


def _name(w: Workload) -> str:
    """Writes "alibi forward, causal", or "distilgpt2 prefill, bnb-int8" for a model, whose attention is softmax unless
    named."""
    if w.bare:
        return f"{w.function} {w.phase}, {mask(w)}"
    function = "" if w.function == "softmax" else f" {w.function}"
    return f"{w.model}{function} {w.phase}" + "".join(f", {word}" for word in w.treatment)
