"""Writes what stands below a table: compile seconds, how to read it, and why rows are missing from it."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from perf.measure.evidence import Evidence
from perf.measure.host import TOLERATED
from perf.report.units import NO_PRODUCT, largest_kernel, mask, percent
from perf.system.tools import group_by
from perf.workloads.workload import FORMULA, MODEL_FORMULA

LIMITS = {"bytes": "b", "FLOPs": "F"}
GPU_ONLY = re.compile(r"CUDA GPUs? only")
KERNEL_NOTE = (f"A kernel has its share of the time of all kernels of one call; {NO_PRODUCT} marks one that is no "
               "matrix product and takes more than half.")
SHARES = "{:<54}{:>7}{:>5}{:>11}  {}"
COMPILATION = "{:<60}{:>6}{:>18}{:>18}{:>12}"


def doubt(row: Evidence) -> str | None:
    """Says why the time of a row is not to be trusted, though it was kept; None if it is."""
    if row.outcome == "ok" and row.reason:
        return row.reason
    if (row.foreign_cores or 0) > TOLERATED and not (row.clock or "").startswith("cuda"):
        return f"other processes kept more than {TOLERATED:g} of a core busy"
    return None


def alike(texts: Iterable[tuple[str, Evidence]]) -> list[list[tuple[str, Evidence]]]:
    """Groups texts that differ in numbers only (not in those of names, as fa2), the most frequent first."""
    kinds = group_by(texts, lambda text: re.sub(r"(?<![\w-])\d+", "#", text[0]))
    return sorted(kinds.values(), key=len, reverse=True)


def reasons(rows: Iterable[Evidence], outcome: str) -> list[str]:
    """Returns a line for each reason that rows have this outcome: "skipped: fa2 needs a CUDA GPU, 1 row", or "skipped:
    fa2, fa3: each needs a CUDA GPU, 24 rows"."""
    texts = [(_alone(row), row) for row in rows if row.outcome == outcome]
    lines = []
    for kind in alike(texts):
        names = dict.fromkeys(row.workload.backend if outcome == "skipped" else row.workload.variant for _, row in kind)
        reason = kind[0][0].rstrip(".")
        each = ": each" if len(names) > 1 and re.match(r" \w", reason) else ""  # its verb is one backend's
        lines.append(f"{outcome}: {', '.join(names)}{each}{reason}, {len(kind)} row{'s' * (len(kind) > 1)}")
    return lines


def _alone(row: Evidence) -> str:
    """Returns a row's reason without the variant's name, such as ": no GPU" or " is wrong"; one sentence stands for all
    that only a GPU runs."""
    reason, variant = row.reason or "no reason given", row.workload.variant
    if GPU_ONLY.search(reason):
        return " needs a CUDA GPU"
    return reason.removeprefix(variant) if reason.startswith((f"{variant} ", f"{variant}:")) else f": {reason}"


def compilations(rows: Iterable[Evidence]) -> dict[str, tuple[int, str, str, int]]:
    """Sums up what compiling took, by variant and phase: rows, seconds cold and warm, recompilations."""
    def name(row: Evidence) -> str:
        w = row.workload
        return " ".join((f"{'' if w.bare else f'{w.model}: '}{w.variant}", w.phase, *w.treatment))

    groups = group_by((row for row in rows if row.compiled), name)
    return {name: (len(group), _span(group, "cold"), _span(group, "warm"),
                   sum(int(row.compiled.get("recompiles", 0)) for row in group)) for name, group in groups.items()}


def _span(rows: Iterable[Evidence], kind: str) -> str:
    """Writes the seconds of the rows that have this kind: the least, the most and the sum."""
    values = [row.compiled[kind] for row in rows if kind in row.compiled]
    if not values:
        return "-"
    least, most = f"{min(values):.1f}", f"{max(values):.1f}"
    return (least if least == most else f"{least}-{most}") + (f" ({sum(values):.1f})" if len(values) > 1 else "")


def compilation(rows: Iterable[Evidence]) -> list[str]:
    """Returns a line for each variant and phase that was compiled, with what that took, apart from run time."""
    lines: list[str] = []
    for name, figures in compilations(rows).items():
        if len(name) > 60:  # a line of its own
            lines, name = [*lines, name], ""
        lines.append(COMPILATION.format(name, *figures))
    header = COMPILATION.format("compile seconds (sum)", "rows", "cold", "warm", "recompiles")
    return [header, *lines, ""] if lines else []


def shares(rows: Iterable[Evidence]) -> list[str]:
    """Returns a line for each row whose call was profiled: attention's share of a model's step, and the largest
    kernel's."""
    lines = []
    for row in rows:
        w = row.workload
        whole = (w.model,) if not w.bare else ()
        name = " ".join((*whole, w.variant, w.phase, *(() if whole else (mask(w),)), w.dtype, *w.treatment))
        if row.kernel_shares:
            lines.append(SHARES.format(name, w.n, w.batch, "" if w.bare else percent(row.attention_share),
                                       largest_kernel(row, width=34)))
    return [SHARES.format("where the time goes", "n", "b", "attention", "largest kernel"), *lines, ""] if lines else []


def legend(rows: Sequence[Evidence], with_datasheet: bool) -> list[str]:
    """Explains the table of `rows` and warns of what to mind in it, a text a paragraph."""
    formula = FORMULA if all(row.workload.bare for row in rows) else f"{FORMULA}; {MODEL_FORMULA}"
    sheet = "peak = datasheet's least time / time. " if with_datasheet else ""
    return [*warnings(rows), f"{formula}.",
            "Time is the median, ± half of its 95 % interval. Speed-up = baseline's time / this time; * marks the "
            "baseline (eager, else sdpa, else the first). GB/s = inputs read once + outputs written once. "
            "limit = least time by this machine's measured ceilings / time; what binds is b: bytes, F: FLOPs. "
            f"{sheet}Memory is allocated during the call or kept between calls (a mask, weights). Error is that "
            "difference to the float64 oracle which comes closest to what is allowed: a row's largest, its rms, or the "
            "share of the result that all rows have too much (slope), relative to the values of the row (of a model: "
            "to its largest output); ratio = error / what is allowed, above 1 is wrong. " + KERNEL_NOTE]


def warnings(rows: Sequence[Evidence]) -> list[str]:
    """Says what makes times doubtful or is missing beside them, a line each."""
    timed = [row for row in rows if row.outcome == "ok" and row.median]
    doubts = [(why, row) for row in timed if (why := doubt(row))]
    lines = [f"! {_of(kind, timed)} doubtful: {kind[0][0]}" for kind in alike(doubts)]
    if late := sum(row.ended == "budget" for row in timed):
        lines.append(f"{late} of {len(timed)} ended by the time budget, before their ± was as narrow as asked for.")
    for kind in alike((row.no_graph, row) for row in timed if row.no_graph):
        lines.append(f"{len(kind)} of {len(timed)} timed by events: no graph: {kind[0][0]}")
    for kind in alike((f"{tensor}, where {why}", row) for row in timed for tensor, why in row.loose.items()):
        lines.append(f"{_of(kind, timed)} allowed errors above a tenth of a value: {kind[0][0]}")
    if timed and all(row.floor is None for row in timed):
        lines.append("limit is -: this machine's copy and matmul ceilings were not measured.")
    return lines


def _of(some: Sequence[object], rows: Sequence[object]) -> str:
    return f"{len(some)} of {len(rows)} {'is' if len(some) == 1 else 'are'}"
