"""Draws the TFLOP/s of an evidence file over n, as a PNG and an SVG."""
from __future__ import annotations

import argparse
from pathlib import Path

from perf.commands.parser import read_evidence
from perf.system.exit_codes import OK
from perf.workloads.workload import BARE_PHASES


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", type=Path, help="evidence file; of several machines the last is drawn")
    parser.add_argument("--function", help="comma-separated attention functions (default: all in the file)")
    parser.add_argument("--phase", choices=BARE_PHASES, default=BARE_PHASES[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the PNG; an SVG is written beside it")


def run(options: argparse.Namespace) -> int:
    from perf.report.plot import caption, panels, write
    from perf.report.table import latest

    if options.output.suffix not in (".png", ".svg"):
        raise ValueError(f"-o {options.output}: a PNG and an SVG are written; give a name that ends in .png")
    rows, machines = read_evidence(options.evidence, "plot")
    rows = latest(rows)
    functions = options.function.split(",") if options.function else list(
        dict.fromkeys(row.workload.function for row in rows))
    shown = panels(rows, functions, options.phase)
    if missing := [name for name in functions if name not in {w.function for w in shown}]:
        timed = dict.fromkeys(f"{row.workload.function} {row.workload.phase}" for row in rows if row.median)
        if options.function or not shown:
            raise ValueError(f"{options.evidence}: nothing to plot: no {' or '.join(missing) or 'kernel'} "
                             f"{options.phase} at two lengths or more; timed there: {', '.join(timed) or 'nothing'}")
    drawn = [row for lines in shown.values() for points in lines.values() for row in points]
    write(shown, caption(machines.get(rows[-1].machine, {}), drawn), options.output)
    return OK
