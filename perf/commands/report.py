"""Writes an evidence file as one HTML page that needs no server and loads nothing."""
from __future__ import annotations

import argparse
from pathlib import Path

from perf.commands.parser import read_evidence
from perf.system.exit_codes import OK


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", type=Path, help="evidence file")
    parser.add_argument("-o", "--output", type=Path, help="the page (default: beside the evidence, ending in .html)")
    parser.add_argument("--title", help="the page's heading")


def run(options: argparse.Namespace) -> int:
    from perf.web.page import TITLE, write

    output = options.output or options.evidence.with_suffix(".html")
    if output == options.evidence:
        raise ValueError(f"-o {output}: is the evidence itself; name another file")
    rows, machines = read_evidence(options.evidence, "report")
    write(output, rows, machines, title=TITLE if options.title is None else options.title)
    print(output)
    return OK
