"""Shows why rows have no time, what was compiled, and the kernels that ran."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from perf.measure.evidence import Evidence
from perf.report.notes import alike, compilations
from perf.report.units import percent
from perf.web.page.markup import Markup, table, tag
from perf.workloads.workload import Workload

PROBLEMS = {"wrong": "in its numbers, or by the kernel that ran", "failed": "raised an error",
            "invalid": "timed on a machine that was not fit"}


def problems(rows: Sequence[Evidence], numbers: Mapping[Workload, int]) -> Markup | None:
    """Lists the rows that are wrong, failed or invalid, by reason; None if there are none."""
    parts: list[Markup] = []
    for outcome, means in PROBLEMS.items():
        alike_rows = [row for row in rows if row.outcome == outcome]
        if alike_rows:
            parts += [tag("h3", f"{len(alike_rows)} {outcome}: {means}"), *_groups(alike_rows, numbers)]
    return tag("section", tag("h2", "Problems"), *parts, id="problems", class_="problems") if parts else None


def skips(rows: Sequence[Evidence]) -> Markup | None:
    """Lists every skipped workload under its reason; None if there are none."""
    misses = [row for row in rows if row.outcome == "skipped"]
    return tag("section", tag("h2", f"{len(misses)} skipped"), *_groups(misses, {}), id="skipped") if misses else None


def _groups(rows: Sequence[Evidence], numbers: Mapping[Workload, int]) -> list[Markup]:
    parts = []
    for kind in alike((row.reason or "no reason given", row) for row in rows):
        first = kind[0][0]
        items = [tag("li", _name(row, numbers), None if reason == first else f": {reason}") for reason, row in kind]
        parts.append(tag("details", tag("summary", tag("b", len(kind)), " ", first), tag("ul", *items)))
    return parts


def _name(row: Evidence, numbers: Mapping[Workload, int]) -> Markup:
    name = tag("code", row.workload.id)
    return tag("a", name, href=f"#r{numbers[row.workload]}") if row.workload in numbers else name


def compile_seconds(rows: Sequence[Evidence]) -> Markup | None:
    """Shows compile seconds by variant and phase; None if nothing was compiled."""
    lines = [tag("tr", tag("th", name, scope="row"), *(tag("td", figure, class_="num") for figure in figures))
             for name, figures in compilations(rows).items()]
    title, numbers = "Compile seconds", ("rows", "cold (sum)", "warm (sum)", "recompiles")
    rows_of_numbers = table(title, ("variant and phase", *numbers), lines, numbers=numbers)
    return tag("section", tag("h2", title), rows_of_numbers, id="compiled") if lines else None


def kernels(rows: Sequence[Evidence]) -> Markup | None:
    """Lists the device kernels or operators that the rows of each variant and phase ran, with their largest share of
    the time; None if they weren't recorded."""
    by_name: dict[str, dict[str, list[Evidence]]] = {}
    for row in rows:
        w = row.workload
        name = f"{'' if w.bare else w.model + ': '}{w.variant} {w.phase}"
        for kernel in row.kernels:
            by_name.setdefault(name, {}).setdefault(kernel, []).append(row)
    parts = [tag("details", tag("summary", name), tag("ul", *(
        tag("li", tag("code", kernel), f" {_use(kernel, ran)}") for kernel, ran in sorted(each.items()))))
        for name, each in by_name.items()]
    return tag("section", tag("h2", "The kernels that ran"), *parts, id="kernels") if parts else None


def _use(kernel: str, rows: Sequence[Evidence]) -> str:
    """Writes "2 to 3 a call, at most 61% of the time, in 4 rows"."""
    times = [row.kernels[kernel] for row in rows]
    least, most = min(times), max(times)
    share = max((row.kernel_shares.get(kernel, 0.0) for row in rows), default=0.0)
    return (f"{least if least == most else f'{least} to {most}'} a call, "
            f"{f'at most {percent(share)} of the time, ' if share else ''}in {len(times)} rows")
