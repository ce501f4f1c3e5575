"""`python -m perf history`: what is done with the history outside a run.

    add FILE...   puts evidence there, of the commits that it names, or of --commit
    backfill A..B measures commits of the past; pytest's options after --
    show          what there is, what could not be read, and where each line stepped or creeps
    push, pull    the folder to the branch perf-history, merged; the branch into the folder
    prune         forgets the old of the folder, and of the branch unless --no-branch
"""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perf.commands.arguments import Parser, read
from perf.history import branch, merge
from perf.history.rows import Row, load, write
from perf.measure.evidence import Evidence
from perf.verdict import drift

VERBS = ("add", "backfill", "show", "push", "pull", "prune")


def main(arguments: Sequence[str]) -> int:
    """1 if something could not be read or kept. Raises ValueError, in one line, for what can't be done."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = _parser().parse_args(arguments[:cut])
    if arguments[cut:] and chosen.verb != "backfill":
        raise ValueError(f"-- begins pytest's options, which {chosen.verb} has none of")
    root = Path.cwd()
    folder = chosen.folder
    if folder is None:
        from perf.history.destination import results_dir

        folder = results_dir(root)
    remote = None if chosen.remote in ("", "none") else chosen.remote
    problems: list[str]
    if chosen.verb == "add":
        problems = _add(chosen, folder)
    elif chosen.verb == "backfill":
        problems = _backfill(chosen, folder, root, arguments[cut + 1:])
    elif chosen.verb == "show":
        problems = _show(folder)
    elif chosen.verb == "prune":
        problems = _prune(chosen, folder, root, remote)
    else:
        problems = {"push": branch.push, "pull": branch.pull}[chosen.verb](folder, root, remote)
    for problem in problems:
        print(f"python -m perf history {chosen.verb}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m perf history", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(VERBS))
    for verb in VERBS:
        of_verb = verbs.add_parser(verb)
        of_verb.add_argument("--folder", type=Path, help="asv's results (default: the results_dir of asv.conf.json)")
        of_verb.add_argument("--remote", default="origin", help="of the branch; none: this repository's own branch")
        if verb == "add":
            of_verb.add_argument("evidence", nargs="+", type=Path)
            of_verb.add_argument("--commit", help="full hash of the commit that was measured, whatever evidence says")
            of_verb.add_argument("--repository", type=Path, default=Path(), help="that has the commits")
            of_verb.add_argument("--dirty", action="store_true", help="rows with uncommitted changes too, as such")
        if verb == "backfill":
            of_verb.add_argument("revisions", help="a range, such as HEAD~10..HEAD")
            of_verb.add_argument("--most", type=int, default=5, help="commits, evenly spread (default: 5)")
            of_verb.add_argument("--rounds", type=int, default=1, help="each adds its samples (default: 1)")
            of_verb.add_argument("--seconds", type=float, default=math.inf, help="no commit is begun that ends later")
        if verb == "prune":
            of_verb.add_argument("--days", type=float, default=math.inf, help="age of commits that are forgotten")
            of_verb.add_argument("--sample-days", type=float, default=30.0,
                                 help="age of commits whose samples are; statistics stay (default: 30)")
            of_verb.add_argument("--no-branch", action="store_true", help="the folder alone")
    return parser


def _add(chosen: argparse.Namespace, folder: Path) -> list[str]:
    notes: list[str] = []
    for path in chosen.evidence:
        rows, machines = read(path, "add")
        if chosen.commit:
            rows = [replace(row, revision=chosen.commit + _dirty(row)) for row in rows]
        written = write(rows, folder, machines=machines, root=chosen.repository, dirty=chosen.dirty)
        print(f"{path}: {written.numbers} numbers in {', '.join(map(str, written.files)) or 'no file'}")
        notes += [f"{path}: {note}" for note in written.notes]
    return notes


def _backfill(chosen: argparse.Namespace, folder: Path, root: Path, options: Sequence[str]) -> list[str]:
    from perf.history import backfill

    if chosen.most < 1 or chosen.rounds < 1:
        raise ValueError("--most and --rounds are at least 1")
    plan = backfill.Plan(backfill.commits(root, chosen.revisions, chosen.most), chosen.rounds, chosen.seconds, options)
    for line in backfill.backfill(plan, root, folder):
        print(line, flush=True)
    return []


def _dirty(row: Evidence) -> str:
    return "+dirty" if (row.revision or "").endswith("+dirty") else ""


def _show(folder: Path) -> list[str]:
    found = load(folder)
    commits = {row.commit for row in found.rows}
    machines = {(row.machine, row.environment) for row in found.rows}
    print(f"{folder}: {len(found.rows)} numbers in {len(found.lines)} lines; {len(commits)} commits on "
          f"{len(machines)} machines and environments")
    for (machine, _, workload, figure), rows in sorted(found.lines.items(), key=lambda line: str(line[0])):
        for said in _changes(rows):
            print(f"  {machine} {workload.id} {figure}: {said}")
    return [str(problem) for problem in found.problems]


def _changes(rows: Sequence[Row]) -> list[str]:
    values = [row.value for row in rows]
    said = [f"{change.before:.4g} -> {change.after:.4g} {rows[0].unit} at {rows[change.at].commit[:8]}"
            for change in drift.steps(values)]
    if creep := drift.creep(values):
        said.append(f"the last {creep.nights} commits are {creep.ratio - 1:.1%} above those before")
    return said


def _prune(chosen: argparse.Namespace, folder: Path, root: Path, remote: str | None) -> list[str]:
    if chosen.days < chosen.sample_days:
        raise ValueError(f"--sample-days {chosen.sample_days:g} is more than --days {chosen.days:g}; give less")
    ages = {"days": chosen.days, "sample_days": chosen.sample_days}
    told = [(folder, merge.prune(folder, **ages))] if folder.is_dir() else []
    if not chosen.no_branch:
        told.append((Path(branch.BRANCH), branch.prune(root, remote, **ages)))
    for where, (gone, lighter, _) in told:
        print(f"{where}: {gone} files forgotten, the samples of {lighter}")
    return [problem for _, (_, _, problems) in told for problem in problems]
