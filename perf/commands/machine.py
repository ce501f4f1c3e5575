"""Prints the machine's fingerprint that evidence carries, and whether the machine is fit to measure.

Exit codes: 0 fit; 1 unfit, for a reason that it prints; 2 refused, in one line.
"""
from __future__ import annotations

import argparse
import sys

from perf.system.devices import HELP, device
from perf.system.exit_codes import FAILED, OK


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", nargs="?", help=HELP)


def run(options: argparse.Namespace) -> int:
    from perf.report.machine import report

    text, why = report(device(options.device))
    print(text)
    if why:
        print(f"unfit: {why}", file=sys.stderr)
    return FAILED if why else OK
