"""The commands that keep the history of every commit, and publish it."""
from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.commands.parser import Commands, command, read_evidence, whole_number
from perf.system.exit_codes import FAILED, OK

if TYPE_CHECKING:
    from perf.history.rows import Entry

RESULTS, NIGHTS, OUT = Path(".asv/results"), Path(".perf/nights"), Path(".site")


def add(commands: Commands) -> None:
    parser = command(commands, "history", history, history.__doc__)
    verbs = {"add": _add, "backfill": _backfill, "show": _show, "push": _share, "pull": _share, "prune": _prune}
    group = parser.add_subparsers(dest="verb", required=True, metavar="|".join(verbs))
    for verb, action in verbs.items():
        one = group.add_parser(verb)
        one.set_defaults(action=action)
        one.add_argument("--folder", type=Path, help="asv's results (default: the results_dir of asv.conf.json)")
        one.add_argument("--remote", default="origin", help="of the branch; none: this repository's own branch")
        if verb == "add":
            one.add_argument("evidence", nargs="+", type=Path)
            one.add_argument("--commit", help="full hash of the commit that was measured, whatever evidence says")
            one.add_argument("--repository", type=Path, default=Path(), help="the repository that has the commits")
            one.add_argument("--dirty", action="store_true", help="uncommitted changes too, as another series")
        if verb == "backfill":
            one.set_defaults(pytest=[])
            one.add_argument("revisions", help="a range, such as HEAD~10..HEAD")
            one.add_argument("--most", type=whole_number, help="commits, evenly spread (default: 5)")
            one.add_argument("--rounds", type=whole_number, help="each adds its samples (default: 1)")
            one.add_argument("--seconds", type=float, default=math.inf, help="begin no commit that would end later")
            those = one.add_mutually_exclusive_group()
            those.add_argument("--missing", action="store_true", help="only commits of which the folder has nothing")
            those.add_argument("--narrow", action="store_true",
                               help="only commits between two that were measured and differ by a step of a time")
        if verb == "prune":
            one.add_argument("--days", type=float, default=math.inf, help="age of commits that are forgotten")
            one.add_argument("--sample-days", type=float, default=30.0,
                             help="age of commits whose samples are forgotten; statistics stay (default: 30)")
            one.add_argument("--no-branch", action="store_true", help="prune the folder alone")
    parser = command(commands, "site", site, site.__doc__)
    parser.add_argument("--results", type=Path, help="asv's results (default: the results_dir of asv.conf.json)")
    parser.add_argument("--nights", type=Path, default=NIGHTS, help=f"the nights' records (default: {NIGHTS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write (default: {OUT})")


def history(options: argparse.Namespace) -> int:
    """Keeps the history of every commit: adds evidence to it, shows its changes, pushes, pulls and prunes its branch.

        add FILE...    puts evidence there, of the commits that it names, or of --commit
        backfill A..B  measures commits of the past; pytest's options after --
        show           prints what there is, what could not be read, and where each line stepped or creeps
        push, pull     merge the folder into the branch perf-history; the branch into the folder
        prune          forgets the old of the folder, and of the branch unless --no-branch

    Exit codes: 0 done; 1 something could not be read or written; 2 refused, in one line.
    """
    if options.folder is None:
        from perf.history.destination import results_dir

        options.folder = results_dir(Path.cwd())
    if options.remote in ("", "none"):
        options.remote = None
    problems = options.action(options)
    for problem in problems:
        print(f"python -m perf history {options.verb}: {problem}", file=sys.stderr)
    return FAILED if problems else OK


def _share(options: argparse.Namespace) -> list[str]:
    from perf.history import branch

    share = branch.push if options.verb == "push" else branch.pull
    return share(options.folder, Path.cwd(), options.remote)


def _add(options: argparse.Namespace) -> list[str]:
    from perf.history.results import write

    notes: list[str] = []
    for path in options.evidence:
        rows, machines = read_evidence(path, "add")
        if options.commit:
            rows = [replace(row, revision=options.commit + "+dirty" * (row.revision or "").endswith("+dirty"))
                    for row in rows]
        written = write(rows, options.folder, machines=machines, root=options.repository, dirty=options.dirty)
        print(f"{path}: {written.numbers} numbers in {', '.join(map(str, written.files)) or 'no file'}")
        notes += [f"{path}: {note}" for note in written.notes]
    return notes


def _backfill(options: argparse.Namespace) -> list[str]:
    from perf.compare import pairs
    from perf.history import backfill, process

    root = Path.cwd()
    if options.narrow:
        if options.most or options.rounds:
            raise ValueError("--narrow measures each commit that it needs once; drop --most and --rounds")
        everything = backfill.commits(root, options.revisions, sys.maxsize)
        plan: backfill.Schedule = backfill.Narrowing(everything, seconds=options.seconds, folder=options.folder)
    else:
        commits = backfill.commits(root, options.revisions, options.most or 5)
        there = backfill.commits_in(options.folder) if options.missing else set()
        plan = backfill.Schedule([c for c in commits if c not in there], options.rounds or 1, options.seconds)
    run = process.choose(root, options.pytest)
    measure = process.measuring(run, pairs.nursery(run.device))
    for line in backfill.backfill(plan, root, options.folder, measure):
        print(line, flush=True)
    return []


def _show(options: argparse.Namespace) -> list[str]:
    from perf.history.rows import load

    history = load(options.folder)
    commits = {row.commit for row in history.rows}
    machines = {(row.machine, row.environment) for row in history.rows}
    print(f"{options.folder}: {len(history.rows)} numbers in {len(history.lines)} lines; {len(commits)} commits on "
          f"{len(machines)} machines and environments")
    for (machine, _, workload, figure), rows in sorted(history.lines.items(), key=lambda line: str(line[0])):
        for change in _changes(rows):
            print(f"  {machine} {workload.id} {figure}: {change}")
    return [str(problem) for problem in history.problems]


def _changes(rows: Sequence[Entry]) -> list[str]:
    from perf.verdict import drift

    values = [row.value for row in rows]
    sentences = [f"{change.before:.4g} -> {change.after:.4g} {rows[0].unit} at {rows[change.at].commit[:8]}, after "
                 f"{rows[change.at - 1].commit[:8]}"
                 for change in drift.steps(values)]
    if creep := drift.creep(values):
        sentences.append(f"the last {creep.nights} commits are {creep.ratio - 1:.1%} above those before")
    return sentences


def _prune(options: argparse.Namespace) -> list[str]:
    from perf.history import branch, merge

    folder = options.folder
    if options.days < options.sample_days:
        raise ValueError(f"--sample-days {options.sample_days:g} is more than --days {options.days:g}; give less")
    ages = {"days": options.days, "sample_days": options.sample_days}
    pruned = [(folder, merge.prune(folder, **ages))] if folder.is_dir() else []
    if not options.no_branch:
        pruned.append((Path(branch.BRANCH), branch.prune(Path.cwd(), options.remote, **ages)))
    for where, (gone, lighter, _) in pruned:
        print(f"{where}: {gone} files forgotten, the samples of {lighter}")
    return [problem for _, (_, _, problems) in pruned for problem in problems]


def site(options: argparse.Namespace) -> int:
    """Publishes the history as web pages that load nothing from elsewhere.

        python -m perf site                      # .asv/results and .perf/nights -> .site
        python -m http.server -d .site           # or any static server, under any path

    Exit codes: 0 published; 1 there is a history, and asv's pages of it are missing; 2 refused, in one line.
    """
    from perf.web.site import build

    config = _config(Path("asv.conf.json"))
    results = options.results or Path(config.get("results_dir", RESULTS))
    problems, whole = build(config, Path.cwd(), results, options.nights, options.out)
    for problem in problems:
        print(f"python -m perf site: {problem}", file=sys.stderr)
    print(options.out / "index.html")
    return OK if whole or not (results / "benchmarks.json").exists() else FAILED


def _config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"no {path} here; run it where that file stands") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
