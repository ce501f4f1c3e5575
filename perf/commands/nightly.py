"""Runs one night: a fit machine, tests, benchmarks, verdicts, bisection, alert, site.

A look at the machine; the tests; the benchmarks, kept in the history; suspects against a good commit by live pairs of
processes; the commit since which each is slower, as far as --budget goes; an alert on GitHub; the site.
Called again after it was killed, or after a step failed, it goes on where it was. What stands behind -- goes to pytest
and chooses what is measured:

    python -m perf nightly --no-alert
    python -m perf nightly --repository OWNER/NAME -- --perf-functions softmax,alibi

Alerts take GITHUB_TOKEN from the environment, and PERF_WEBHOOK_URL if it is set.

Exit codes: 0 a quiet night; 1 something regressed, or is wrong; 2 refused, in one line; 3 a step failed (what it is, it
says; the others' results are kept); 10 the machine was unfit and nothing was decided.
"""
from __future__ import annotations

import argparse
import importlib.util
import signal
from pathlib import Path

from perf.commands.parser import Commands, command
from perf.nightly.process import LOCK, hold, stop
from perf.workloads.workload import GRIDS

NIGHTS, WORK, BUDGET = Path(".perf/nights"), Path(".perf/nightly"), 7200.0


def add(commands: Commands) -> None:
    parser = command(commands, "nightly", run, __doc__)
    parser.add_argument("--device", help="to measure on (default: cuda if there is one, else cpu)")
    parser.add_argument("--grid", choices=GRIDS, default="default", help="how much to measure (default: default)")
    parser.add_argument("--budget", type=_seconds, default=BUDGET, metavar="SECONDS",
                        help=f"for pairs and bisection (default: {BUDGET:.0f})")
    parser.add_argument("--last-good", metavar="REV",
                        help="the revision to compare with (default: that of the last quiet night)")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="on GitHub (default: GITHUB_REPOSITORY)")
    parser.add_argument("--results", type=Path, metavar="FOLDER",
                        help="the history (default: the results_dir of asv.conf.json)")
    parser.add_argument("--nights", type=Path, default=NIGHTS, metavar="FOLDER",
                        help=f"the nights' records (default: {NIGHTS})")
    parser.add_argument("--work", type=Path, default=WORK, metavar="FOLDER",
                        help=f"a folder for each night's logs and evidence (default: {WORK})")
    parser.add_argument("--lock", type=Path, default=LOCK, metavar="FILE",
                        help=f"keeps two from measuring at once (default: {LOCK})")
    parser.add_argument("--measured", type=Path, nargs="+", default=(), metavar="FILE",
                        help="evidence of one launch or two that shards have measured, merged: it is not measured anew")
    parser.add_argument("--fresh", action="store_true", help="a new night, though the last one is not finished")
    for name, what in (("tests", "run no tests"), ("alert", "alert nobody"), ("site", "write no site")):
        parser.add_argument(f"--no-{name}", dest=name, action="store_false", help=what)
    parser.set_defaults(pytest=[])


def run(options: argparse.Namespace) -> int:
    """Raises ValueError, in one line, for what is refused."""
    if importlib.util.find_spec("asv") is None:
        raise ValueError("asv is not installed, which keeps the history; pip install 'attention-perf[site]'")
    from perf.alerts import text
    from perf.compare import project
    from perf.compare.checkout import resolve
    from perf.history import destination
    from perf.nightly import schedule
    from perf.nightly.night import Options, acceptance

    root = project.root()
    folder = destination.results_dir(root) if options.results is None else options.results.absolute()
    settings = Options(options.device, options.grid, folder, _folder(root, options.nights), _folder(root, options.work),
                    options.budget, options.repository, options.last_good, options.tests, options.alert, options.site,
                    tuple(options.pytest), tuple(options.measured))
    if settings.last_good:
        resolve(root, settings.last_good)
    head = schedule.head_commit(root)
    signal.signal(signal.SIGTERM, stop)
    with hold(options.lock) as file:
        night, comparison, results = schedule.run_night(root, settings, head, file, fresh=options.fresh)
    why = acceptance()
    print(f"{text.verdict(comparison, why)}; the record is {night.record}, logs are in {night.folder.path}")
    return schedule.exit_code(results, comparison, why)


def _folder(root: Path, path: Path) -> Path:
    """Returns where a folder lies: a default in the project, a named one where the caller stands."""
    return root / path if path in (NIGHTS, WORK) else path.absolute()


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds")
    return value
