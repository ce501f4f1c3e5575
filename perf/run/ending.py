"""What ends a run: the table, where the time went, how to look into slow rows, the page."""
from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from perf.measure import datasheet, machine, roofline
from perf.measure.evidence import Evidence
from perf.report.table import WIDTH, baseline, groups, speed_up, table
from perf.run.selection import command
from perf.run.session import Session

Least = Callable[[Evidence], float | None]
SLOW = 1.1  # times its baseline's time: from there on a row's command is shown
MOST = 5  # commands


def ending(session: Session, arguments: Sequence[str], here: Path) -> Iterator[str]:
    """Lines for the terminal; paths relative to `here`, the folder that pytest was called in with `arguments`."""
    least, sheet = _by_datasheet(session)
    yield table(session.rows, least)
    measured = sum(row.outcome == "ok" for row in session.rows)
    for note in (f"{measured} workloads measured in {session.spending.line()}", *sheet, *session.notes,
                 *_unwatched(session)):
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    yield from _slow(session)
    yield f"evidence in {_shown(session.settings.evidence, here)}"
    if path := session.settings.report:
        from perf.web.page import write

        try:
            write(path, session.rows, {machine.identity(): machine.fingerprint()}, datasheet=least,
                  command=shlex.join(["pytest", *arguments]))
            yield f"report in {_shown(path, here)}"
        except ValueError as error:
            yield f"no report: {error}"


def _by_datasheet(session: Session) -> tuple[Least | None, list[str]]:
    """The least seconds of a row by the vendor's numbers, and a line about them; on a GPU that was timed."""
    if session.settings.device.type != "cuda" or not any(row.floor for row in session.rows):
        return None, []
    gpu = torch.cuda.get_device_name(session.settings.device)
    sheet = datasheet.ceilings(gpu, session.ceilings.matmul)

    def least(row: Evidence) -> float | None:
        limit = roofline.floor(row.workload, sheet) if sheet else None
        return limit.seconds if limit else None

    measured = ", ".join(f"{label} {rate / 1e12:.0f} TFLOP/s" for label, rate in session.ceilings.matmul.items())
    return (least if sheet else None), [f"measured ceilings: copy {session.ceilings.copy / 1e12:.2f} TB/s, {measured}; "
                                        f"{datasheet.describe(gpu)}"]


def _unwatched(session: Session) -> list[str]:
    return [session.watch.unwatched] if session.watch.unwatched else []


def _slow(session: Session) -> Iterator[str]:
    """How to profile the rows that take longer than what they are compared with, the worst first."""
    found = []
    for group in groups(session.rows):
        base = baseline(group)
        found += [(ratio, row.workload) for row in group if (ratio := speed_up(row, base)) and ratio < 1 / SLOW]
    for i, (ratio, w) in enumerate(sorted(found, key=lambda pair: pair[0])[:MOST]):
        if i == 0:
            what = "1 row is" if len(found) == 1 else f"{len(found)} rows are"
            yield f"{what} more than {SLOW - 1:.0%} slower than the baseline; to see where the time goes:"
        try:
            yield f"  {1 / ratio:.1f}x  {command(w, device=session.settings.device)}"
        except ValueError as error:
            yield f"  {1 / ratio:.1f}x  {error}"


def _shown(path: Path, here: Path) -> Path:
    return path.relative_to(here) if path.is_relative_to(here) else path
