"""`python -m perf nightly`: one night, from a fit machine to an alert.

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
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.alerts import comment
from perf.alerts.sets import Why, alarms
from perf.commands.arguments import Parser
from perf.compare.checkout import ROOT, resolve
from perf.compare.record import Night
from perf.nightly import lock, measuring, record
from perf.nightly.bisection import bisection
from perf.nightly.compare import ended
from perf.nightly.folder import Done, Folder, take
from perf.nightly.screening import launches, learn, screen
from perf.nightly.steps import Job, run
from perf.nightly.telling import alert, site
from perf.nightly.tonight import Look, Options, Tonight, acceptance
from perf.nightly.verdict import DECIDED, verdict
from perf.workloads.workload import GRIDS

QUIET, REGRESSED, FAILED, UNFIT = 0, 1, 3, 10  # exit codes
NIGHTS, WORK, BUDGET = Path(".perf/nights"), Path(".perf/nightly"), 7200.0

JOBS: tuple[Job[Tonight], ...] = (
    Job("machine", measuring.machine, always=True),  # fitness is of the moment
    Job("tests", measuring.tests),
    Job("benchmarks", measuring.benchmarks, needs=("machine",)),
    Job("launches", launches, needs=("machine", "benchmarks")),
    Job("screen", screen, needs=("machine", "launches")),
    Job("verdict", verdict, needs=("machine", "benchmarks"), after=("screen",)),
    Job("bisection", bisection, needs=("machine", "verdict")),
    Job("learn", learn, needs=("launches",), after=("verdict",)),
    Job("alert", alert, last=True),
    Job("site", site, last=True),
)
MEASURE = ("benchmarks", "launches", "screen", "verdict", "bisection")


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Raises ValueError, in one line, for what is refused."""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    words, more = words[:at], tuple(words[at + 1:])
    given = _parser().parse_args(words)
    if importlib.util.find_spec("asv") is None:
        raise ValueError("asv is not installed, which keeps the history; pip install 'attention-perf[site]'")
    from perf.history import destination

    results = destination.results_dir(root) if given.results is None else given.results.absolute()
    options = Options(given.device, given.grid, results, _folder(root, given.nights), _folder(root, given.work),
                      given.budget, given.repository, given.last_good, given.tests, given.alert, given.site, more)
    if options.last_good:
        resolve(root, options.last_good)
    head = committed(root)
    signal.signal(signal.SIGTERM, ended)
    with lock.hold(given.lock) as held:
        night, made, done = through(root, options, head, held, fresh=given.fresh)
    why = acceptance()
    print(f"{comment.verdict(made, why)}; the record is {night.record}, what was done in {night.folder.path}")
    return exit_code(done, made, why)


def through(root: Path, options: Options, head: str, held: int, *,
            fresh: bool) -> tuple[Tonight, Night, dict[str, Done]]:
    """All steps; what they left."""
    look = measuring.looked(root, options.device)
    device = options.device or look.device
    folder = take(options.work, key(head, look, device, options), [job.name for job in JOBS], time.time(), fresh=fresh)
    if whole(folder):
        look = Look(look.id, look.fingerprint, None)  # fit or not, nothing is left to measure
    night = Tonight(root, options, folder, head, look, device, held)
    say(f"night {folder.path.name}: {head[:8]} on {device}, in {folder.path}")
    done = run(JOBS, night, folder, say)
    return night, record.save(night, [job.name for job in JOBS]), done


def whole(folder: Folder) -> bool:
    """Whether all that is measured was: on a fit machine, for without one the steps are skipped."""
    done = [folder.done(name) for name in ("machine", *MEASURE)]
    return all(one is not None and one.outcome != "failed" for one in done)


def key(head: str, look: Look, device: str, options: Options) -> dict[str, Any]:
    """What makes a night another one, so that what was measured does not belong to it."""
    return {"head": head, "machine": look.id, "device": device, "grid": options.grid, "more": options.more,
            "results": str(options.results), "last_good": options.last_good}


def committed(root: Path) -> str:
    """The head's full hash. Raises ValueError, in one line, for a working tree that is no commit's."""
    head = resolve(root, "HEAD")
    changed = subprocess.run(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
                             capture_output=True, text=True, check=False).stdout
    if changed.strip():
        raise ValueError(f"uncommitted changes ({changed.split()[1]} among them): a night is of a commit; commit them, "
                         "or put them away (git stash)")
    return head


def exit_code(done: Mapping[str, Done], night: Night, accepted: Why) -> int:
    """The worst comes first. Pure."""
    if alarms(night, accepted):
        return REGRESSED
    if any(one.unfit for one in done.values()) and not any(one.word in DECIDED for one in night.findings):
        return UNFIT
    return FAILED if any(one.outcome == "failed" for one in done.values()) else QUIET


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


def _folder(root: Path, given: Path) -> Path:
    """The defaults lie in the project, what is named where the caller stands."""
    return root / given if given in (NIGHTS, WORK) else given.absolute()


def _parser() -> Parser:
    parser = Parser(prog="python -m perf nightly", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--lock", type=Path, default=lock.DEFAULT, metavar="FILE",
                        help=f"keeps two from measuring at once (default: {lock.DEFAULT})")
    parser.add_argument("--fresh", action="store_true", help="a new night, though the last one is not finished")
    for name, what in (("tests", "run no tests"), ("alert", "tell nobody"), ("site", "write no site")):
        parser.add_argument(f"--no-{name}", dest=name, action="store_false", help=what)
    return parser


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds")
    return value


