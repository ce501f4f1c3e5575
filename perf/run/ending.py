"""A run ends with the table, the reasons why rows have no time, a few hints, what to do next, and the page."""
from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from perf.measure import machine, roofline
from perf.measure.evidence import Evidence
from perf.measure.shares import stands_out
from perf.report import short
from perf.report.notes import warnings
from perf.report.table import WIDTH, baseline, groups, reasons_for_no_time, speed_up, table, wrap
from perf.report.units import largest_kernel
from perf.run.selection import command
from perf.run.session import Session
from perf.system.tools import python

Least = Callable[[Evidence], float | None]
SLOW = 1.1  # times what its baseline takes: from there on a row's command is shown
FEW = 40  # rows that were tried: up to there each has a line with all of its figures
HINTS = 3
COMMAND = "where it goes: "


def ending(session: Session, arguments: Sequence[str], here: Path, *, verbose: bool = False) -> Iterator[str]:
    """Lines for the terminal; paths relative to `here`, the folder that pytest was called in with `arguments`.

    `verbose` shows every row with every figure, and all hints; a run of few rows does so anyway.
    """
    rows, evidence = session.rows, _shown(session.settings.evidence, here)
    least, sheet = _by_datasheet(session)
    whole = verbose or sum(row.outcome != "skipped" for row in rows) <= FEW
    if whole:
        yield from table(rows, least).splitlines()
    else:
        yield from [*short.lines(rows), *wrap([short.LEGEND]), *reasons_for_no_time(rows)]
    measured = sum(row.outcome == "ok" for row in rows)
    yield from wrap([f"{measured} workloads measured in {session.spending.line()}", *sheet, *session.notes,
                        *([session.watch.unwatched] if session.watch.unwatched else [])])
    hints = itertools.chain([] if whole else warnings(rows)[:1], _not_products(rows), _slow(session, arguments))
    for hint in itertools.islice(hints, None if verbose else HINTS):
        yield from [hint] if COMMAND in hint else wrap([hint])  # a command stays in one piece
    yield from _report(session, least, arguments, here)
    yield f"evidence in {evidence}; next:"
    yield from _step(f"{python()} -m perf report {shlex.quote(str(evidence))}", "a page of every row and figure")
    yield from _step(f"{python()} -m pytest perf/ --benchmark-only --perf-against main",
                     "did a change make anything slower?")
    if session.settings.device.type == "cpu":
        yield from _step("pytest perf/ --benchmark-only", "the same on a machine with a CUDA GPU: its kernels and grid")


def _step(command: str, purpose: str) -> list[str]:
    """Puts the purpose behind a command, or above it where both do not fit in a line."""
    line = f"  {command}  # {purpose}"
    return [line] if len(line) <= WIDTH else [f"  # {purpose}", f"  {command}"]


def _report(session: Session, least: Least | None, arguments: Sequence[str], here: Path) -> Iterator[str]:
    if path := session.settings.report:
        from perf.web.page import write

        try:
            write(path, session.rows, {machine.identity(): machine.fingerprint()}, datasheet=least,
                  command=shlex.join(["pytest", *arguments]))
            yield f"report in {_shown(path, here)}"
        except ValueError as error:
            yield f"no report: {error}"


def _by_datasheet(session: Session) -> tuple[Least | None, list[str]]:
    """Gives the least seconds of a row by the vendor's numbers, and a line about them, where a GPU was timed."""
    if session.settings.device.type != "cuda" or not any(row.floor for row in session.rows):
        return None, []
    gpu = torch.cuda.get_device_name(session.settings.device)
    sheet = roofline.datasheet_ceilings(gpu, session.ceilings.matmul)

    def least(row: Evidence) -> float | None:
        limit = roofline.floor(row.workload, sheet) if sheet else None
        return limit.seconds if limit else None

    measured = ", ".join(f"{label} {rate / 1e12:.0f} TFLOP/s" for label, rate in session.ceilings.matmul.items())
    return (least if sheet else None), [f"measured ceilings: copy {session.ceilings.copy / 1e12:.2f} TB/s, {measured}; "
                                        f"{roofline.describe_datasheet(gpu)}"]


def _not_products(rows: Sequence[Evidence]) -> Iterator[str]:
    """Names the row of which a kernel that is no matrix product takes the most, above half."""
    rows_that_stand_out = [row for row in rows if row.outcome == "ok" and stands_out(row.kernel_shares)]
    if rows_that_stand_out:
        worst = max(rows_that_stand_out, key=lambda row: max(row.kernel_shares.values()))
        others = f", and so in {len(rows_that_stand_out) - 1} more rows" if len(rows_that_stand_out) > 1 else ""
        yield (f"{worst.workload.id}: {largest_kernel(worst, width=60)}: a kernel that is no matrix product takes more "
               f"than half of the time{others}")


def _slow(session: Session, arguments: Sequence[str]) -> Iterator[str]:
    """Says how to profile the rows that take longer than what they are compared with, the worst first."""
    slow = []
    plugins = [name for word, name in itertools.pairwise(arguments) if word == "-p" and not name.startswith("no:")]
    for group in groups(session.rows):
        base = baseline(group)
        slow += [(ratio, f"{row.workload.variant} takes {1 / ratio:.1f}x as long as {base.workload.backend}",
                  row.workload) for row in group if base and (ratio := speed_up(row, base)) and ratio < 1 / SLOW]
    for _, words, w in sorted(slow, key=lambda each: each[0]):
        try:
            yield f"{words}; {COMMAND}{command(w, device=session.settings.device, plugins=plugins)}"
        except ValueError as error:
            yield f"{words}: {error}"


def _shown(path: Path, here: Path) -> Path:
    return path.relative_to(here) if path.is_relative_to(here) else path
