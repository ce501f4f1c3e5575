"""Prints the README's table of variants, with what is faster than softmax by the records or by EVIDENCE files."""
from __future__ import annotations

import argparse
from pathlib import Path

from perf.system.exit_codes import OK


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", metavar="EVIDENCE", nargs="*", type=Path, help="evidence files")


def run(options: argparse.Namespace) -> int:
    from perf.measure.evidence import load
    from perf.report.variants import published_rows, table

    for path in options.evidence:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give one that pytest perf/ --perf-evidence wrote")
    print(table([row for path in options.evidence for row in load(path)] if options.evidence else published_rows()))
    return OK
