"""Accepts a change for the worse, so that nobody is alerted to it: adds an entry to accepted.toml, to be committed."""
from __future__ import annotations

import argparse
from datetime import date, timedelta
from pathlib import Path

from perf.policy.accepted import ANY, FILE, Accepted, read
from perf.system.exit_codes import OK

DAYS = 90


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCHMARK", help="the id of a workload, or a pattern of ids")
    parser.add_argument("--commit", required=True, help=f'that made it slower; "{ANY}" until it is known')
    parser.add_argument("--reason", required=True)
    parser.add_argument("--until", type=_day, metavar="YYYY-MM-DD", default=date.today() + timedelta(days=DAYS),
                        help=f"the last day on which this holds (default: in {DAYS} days)")
    parser.add_argument("--file", type=Path, default=FILE, help="default: perf/policy/accepted.toml")


def run(options: argparse.Namespace) -> int:
    """Prints the file that it wrote to. Raises ValueError, in one line, for what makes no entry."""
    if options.reason == "REASON":
        raise ValueError("--reason: write why the change is accepted in place of REASON")
    entry = Accepted(options.benchmark, options.commit, options.reason, options.until)
    if entry.until < date.today():
        raise ValueError(f"--until: {entry.until} is over; give a later day")
    before = options.file.read_text(encoding="utf-8") if options.file.exists() else ""
    after = before + entry.to_toml()
    if entry not in read(after, date.today())[0]:  # the file was none before
        raise ValueError(f"{options.file}: {read(before, date.today())[1][0]}")
    options.file.write_text(after, encoding="utf-8")
    print(f"added to {options.file}: {entry.workload}, until {entry.until}; commit it")
    return OK


def _day(word: str) -> date:
    try:
        return date.fromisoformat(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no day; give one such as 2027-02-28") from None
