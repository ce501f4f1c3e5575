"""The commands that tell people of a change for the worse, and that accept one."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from perf.alerts import exports, text
from perf.alerts.deliver import Folder, NotDelivered, deliver, messages, post
from perf.alerts.sets import Why, acceptance
from perf.commands.parser import Commands, command, whole_number
from perf.compare.record import Comparison
from perf.compare.record import load as read
from perf.policy import accepted, here, owners
from perf.system.exit_codes import FAILED, OK

FOLDER = Path(".perf/alerts")
LARGEST = 32_000_000  # bytes of a record
DAYS = 90  # for which a change is accepted


def add(commands: Commands) -> None:
    parser = command(commands, "alert", alert, alert.__doc__)
    parser.add_argument("record", type=Path, metavar="RECORD")
    parser.add_argument("--issues", action="store_true", help="open, update and close issues")
    parser.add_argument("--comment", type=whole_number, metavar="NUMBER", help="the pull request to comment on")
    parser.add_argument("--summary", action="store_true", help="append to the summary of a workflow's step")
    parser.add_argument("--annotations", action="store_true", help="print a workflow's annotations")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table")
    parser.add_argument("--pytorch", type=Path, metavar="FILE", help="write PyTorch's benchmark records, JSON")
    parser.add_argument("--webhook", action="store_true", help="post to PERF_WEBHOOK_URL")
    parser.add_argument("--head", metavar="COMMIT", help="refuse a record whose head is another")
    parser.add_argument("--repository", metavar="OWNER/NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where messages lie (default: {FOLDER})")
    parser.add_argument("--accepted", type=Path, metavar="FILE")
    parser.add_argument("--owners", type=Path, metavar="FILE")
    parser.add_argument("--timeout", type=whole_number, default=20, metavar="SECONDS", help="of one request")
    parser.add_argument("--pause", type=float, default=2.0, metavar="SECONDS", help="before a second attempt")
    parser = command(commands, "accept", accept, accept.__doc__)
    parser.add_argument("benchmark", metavar="BENCHMARK", help="the id of a workload, or a pattern of ids")
    parser.add_argument("--commit", required=True, help=f'that made it slower; "{accepted.ANY}" until it is known')
    parser.add_argument("--reason", required=True)
    parser.add_argument("--until", type=_day, metavar="YYYY-MM-DD", default=date.today() + timedelta(days=DAYS),
                        help=f"the last day on which this holds (default: in {DAYS} days)")
    parser.add_argument("--file", type=Path, help="default: perf/policy/accepted.toml; in another repository its own, "
                        "perf-accepted.toml")


def alert(options: argparse.Namespace) -> int:
    """Delivers what a night or a comparison found: issues, a comment, a summary, a table, a webhook.

    RECORD is the JSON file that a night or `--perf-verdicts` wrote, or a folder of them, of which the newest is read.
    Without any of --issues, --comment, --summary, --annotations, --csv, --pytorch and --webhook it prints what would be
    delivered. Every message lies in --folder before it is sent. One that can't be delivered does not keep the others
    back.

    The environment gives the secrets: GITHUB_TOKEN (issues, comments) and PERF_WEBHOOK_URL; and where GitHub is:
    GITHUB_REPOSITORY, GITHUB_API_URL, GITHUB_STEP_SUMMARY, as its workflows set them.

    Exit codes: 0 all is delivered; 1 something is not, each with its reason; 2 refused, in one line.
    """
    comparison = _comparison(options.record, options.head)
    entries, problems = accepted.load(options.accepted or here(accepted.FILE))
    owner_rules, more = owners.load(options.owners or here(owners.FILE))
    for problem in (*problems, *more):
        print(f"warning: {problem}", file=sys.stderr)
    why = acceptance(entries)
    folder = Folder(options.folder)
    jobs = _jobs(options, comparison, why, owner_rules, folder)
    if not jobs:
        print(text.summary(comparison, why))
        for message in messages(comparison, {}, owner_rules, why):
            print(f"{message.what}: {message.title}\n\n{message.body}")
        return OK
    deliveries = [_succeeds(job) for job in jobs]
    return OK if all(deliveries) else FAILED


def _jobs(options: argparse.Namespace, comparison: Comparison, why: Why, owner_rules: owners.Owners,
          folder: Folder) -> list[Callable[[], None]]:
    """Lists what the options ask for, files first, the network last. Raises ValueError where something is missing."""
    jobs: list[Callable[[], None]] = []
    if options.annotations:
        jobs.append(lambda: print("\n".join(exports.annotate(comparison, why))))
    if options.summary:
        summary = Path(_variable("GITHUB_STEP_SUMMARY", "--summary"))
        jobs.append(lambda: exports.append(summary, text.summary(comparison, why)))
    for path, export in ((options.csv, exports.to_csv), (options.pytorch, exports.to_pytorch)):
        if path:
            jobs.append(lambda path=path, export=export: _write(path, export(comparison)))  # type: ignore[misc]
    if options.comment or options.issues:
        option = "--issues" if options.issues else "--comment"
        try:
            from perf.alerts.client import API, GitHub
        except ImportError:
            raise ValueError("PyGithub is not installed; pip install 'attention-perf[alerts]'") from None
        repository = options.repository or _variable("GITHUB_REPOSITORY", option)
        github = GitHub(_variable("GITHUB_TOKEN", option), repository, os.environ.get("GITHUB_API_URL") or API,
                        timeout=options.timeout, pause=options.pause)
        if options.comment:
            jobs.append(lambda: folder.deliver("comment", text.comment(comparison, why), lambda body: github.comment(
                options.comment, text.MARKER, body)))
        if options.issues:
            jobs.append(lambda: deliver(github, comparison, owner_rules, why, folder))
    if options.webhook:
        url = _variable("PERF_WEBHOOK_URL", "--webhook")
        message = exports.to_webhook(comparison, why)
        jobs.append(lambda: folder.deliver("webhook", json.dumps(message, indent=1), lambda _: post(
            url, message, timeout=options.timeout, pause=options.pause)))
    return jobs


def _succeeds(job: Callable[[], None]) -> bool:
    try:
        job()
    except (NotDelivered, OSError, ValueError) as error:
        print(f"not delivered: {error}", file=sys.stderr)
        return False
    return True


def _comparison(path: Path, head: str | None) -> Comparison:
    comparison = _newest(path) if path.is_dir() else _read(path)
    if head and not comparison.head.startswith(head):
        raise ValueError(f"{path} is of another commit than {head}: its head is {comparison.head[:40]!r}")
    return comparison


def _newest(folder: Path) -> Comparison:
    records = []
    for path in sorted(folder.glob("**/*.json")):
        try:
            records.append(_read(path))
        except ValueError as error:
            print(f"warning: {error}", file=sys.stderr)
    if not records:
        raise ValueError(f"{folder}: no record of a night in it; run python -m perf nightly first")
    return max(records, key=lambda record: record.time)


def _read(path: Path) -> Comparison:
    if path.is_file() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes: no record is as large")
    return read(path)


def _variable(name: str, option: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ValueError(f"{option}: the environment has no {name}; set it")
    return value


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def accept(options: argparse.Namespace) -> int:
    """Accepts a change for the worse, so that nobody is alerted to it: adds an entry to accepted.toml."""
    if options.reason == "REASON":
        raise ValueError("--reason: write why the change is accepted in place of REASON")
    entry = accepted.Acceptance(options.benchmark, options.commit, options.reason, options.until)
    if entry.until < date.today():
        raise ValueError(f"--until: {entry.until} is over; give a later day")
    from perf.compare.project import root
    from perf.compare.side import ROOT

    own = accepted.FILE if root() == ROOT else root() / f"perf-{accepted.FILE.name}"  # which is yet to begin
    file = options.file or own
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    after = before + entry.to_toml()
    if entry not in accepted.read(after, date.today())[0]:  # the file was none before
        raise ValueError(f"{file}: {accepted.read(before, date.today())[1][0]}")
    file.write_text(after, encoding="utf-8")
    print(f"added to {file}: {entry.workload}, until {entry.until}; commit it")
    return OK


def _day(word: str) -> date:
    try:
        return date.fromisoformat(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no day; give one such as 2027-02-28") from None
