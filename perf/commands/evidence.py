"""The commands that show evidence: a plot, a page, and the README's table of variants."""
from __future__ import annotations

import argparse
from pathlib import Path

from perf.commands.parser import Commands, command, read_evidence
from perf.system.exit_codes import OK
from perf.workloads.workload import BARE_PHASES


def add(commands: Commands) -> None:
    one = command(commands, "variants", variants, variants.__doc__)
    one.add_argument("evidence", metavar="EVIDENCE", nargs="*", type=Path, help="evidence files")
    one = command(commands, "plot", plot, plot.__doc__)
    one.add_argument("evidence", type=Path, help="evidence file; of several machines the last is drawn")
    one.add_argument("--function", help="comma-separated attention functions (default: all in the file)")
    one.add_argument("--phase", choices=BARE_PHASES, default=BARE_PHASES[0])
    one.add_argument("-o", "--output", type=Path, required=True, help="the PNG; an SVG is written beside it")
    one = command(commands, "report", report, report.__doc__)
    one.add_argument("evidence", type=Path, help="evidence file")
    one.add_argument("-o", "--output", type=Path, help="the page (default: beside the evidence, ending in .html)")
    one.add_argument("--title", help="the page's heading")


def variants(options: argparse.Namespace) -> int:
    """Prints the README's table of variants, with what is faster than softmax by the records or by EVIDENCE files."""
    from perf.measure.evidence import load
    from perf.report.docs import published_rows, variants_table

    for path in options.evidence:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give one that pytest perf/ --perf-evidence wrote")
    rows = [row for path in options.evidence for row in load(path)]
    print(variants_table(rows if options.evidence else published_rows()))
    return OK


def plot(options: argparse.Namespace) -> int:
    """Draws the TFLOP/s of an evidence file over n, as a PNG and an SVG."""
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
    points = [row for lines in shown.values() for backend in lines.values() for row in backend]
    write(shown, caption(machines.get(rows[-1].machine, {}), points), options.output)
    return OK


def report(options: argparse.Namespace) -> int:
    """Writes an evidence file as one HTML page that needs no server and loads nothing."""
    from perf.web.page import TITLE, write

    output = options.output or options.evidence.with_suffix(".html")
    if output == options.evidence:
        raise ValueError(f"-o {output}: is the evidence itself; name another file")
    rows, machines = read_evidence(options.evidence, "report")
    write(output, rows, machines, title=TITLE if options.title is None else options.title)
    print(output)
    return OK
