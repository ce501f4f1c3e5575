"""Shows how far medians of fresh processes spread, and how far the clock lies from the profiler.

The same calls run in fresh processes, one after the other. Shown is how far their medians spread, by the project's
clock and by a stopwatch around a synchronised call; and how far the clock lies from what the profiler says the kernels
took. On a GPU every round is followed by a wait of a fixed number of SM cycles, whose duration tells the clock rate it
ran at: time x rate, in cycles, takes a drifting clock out of a call that the SMs bind (a matrix product), and only of
such a one.
"""
from __future__ import annotations

import argparse

from perf.system.devices import HELP, device
from perf.system.exit_codes import OK

PROCESSES = 10


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--device", help=HELP)


def run(options: argparse.Namespace) -> int:
    """Prints a line of JSON a process, then the table."""
    from perf.bench.repeatability import processes, table

    if options.processes < 2:
        raise ValueError(f"--processes {options.processes}: a spread needs at least 2")
    print(table(processes(options.processes, device(options.device))))
    return OK
