"""Finds the commits that made a benchmark slower: --good REV --bad REV BENCHMARK.

With --versions PKG it finds the releases of a package: --good and --bad are two of them, and every release between them
that installs is compared, in this environment with the working tree's code.

Every commit is compared with the good revision by live pairs under today's harness, as `--perf-against` does, and
answers by the same verdict rule (perf/verdict/search.py says how it is searched). Each commit found is then compared
with its own parent.

Exit codes: 0 found; 1 no regression between the two; 2 refused, in one line; 10 the machine was unfit;
11 undecided: the two ends, or a step against its parent, stayed inconclusive.
"""
from __future__ import annotations

import argparse

from perf.commands.parser import Commands, command
from perf.system.devices import HELP, device


def add(commands: Commands) -> None:
    parser = command(commands, "bisect", run, __doc__)
    parser.add_argument("--good", required=True, metavar="REV", help="a revision or release before the regression")
    parser.add_argument("--bad", required=True, metavar="REV", help="a revision or release after it")
    parser.add_argument("--versions", metavar="PKG", help="bisect the releases of this package")
    parser.add_argument("--pre", action="store_true", help="with --versions: pre-releases too")
    parser.add_argument("--device", help=HELP)
    parser.add_argument("--seconds", type=float, help="for one comparison")
    parser.add_argument("benchmark", metavar="BENCHMARK", help="the id of a workload: what a test has in brackets")


def run(options: argparse.Namespace) -> int:
    from perf.compare.bisect import SECONDS, bisect, commits, comparing, releases
    from perf.compare.project import root
    from perf.workloads.ids import workload

    w, place = workload(options.benchmark), device(options.device)
    if options.pre and not options.versions:
        raise ValueError("--pre: says which releases --versions takes; give it a package")
    line = (releases(options.versions, options.good, options.bad, root(), pre=options.pre) if options.versions
            else commits(options.good, options.bad, root()))
    return bisect(line, comparing(w, place), options.seconds or SECONDS[place.type])
