"""Puts the results of shards together, in one file that is read as that of one run: SHARD... -o FILE.

The shards are those of `pytest perf/ --perf-shard i/n`, of one commit, on machines of one kind, with the same options:
files of evidence, or with `--perf-against` those of `--perf-verdicts`, whose verdicts are shown as one table. What is
missing is said, and the file holds the rest.

Exit codes: 0 all of the run; 1 some of it is missing; 2 refused, in one line, and nothing is written. Verdicts end as
one comparison does (perf/run/against.py): 1 also where something regressed or is wrong, 10 and 11 where nothing, or not
all, was decided.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.commands.parser import Commands, command, read_evidence
from perf.compare.record import Comparison, Failed, load
from perf.system import files
from perf.system.exit_codes import FAILED, OK, UNDECIDED
from perf.system.tools import first_line

if TYPE_CHECKING:
    from perf.measure.evidence import Shard

ALIKE = {"count": "number of shards", "machine": "machine", "revision": "commit"}


def add(commands: Commands) -> None:
    parser = command(commands, "merge", run, __doc__)
    parser.add_argument("shards", metavar="SHARD", nargs="+", type=Path, help="evidence or verdicts of a shard")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="file to write, of the same")


def run(options: argparse.Namespace) -> int:
    """Raises ValueError, in one line, for what is no shard, and for shards that don't belong together."""
    if options.output in options.shards:
        raise ValueError(f"-o {options.output}: is one of the shards; name another file")
    if options.output.suffix == ".gz":
        raise ValueError(f"-o {options.output}: is written as text; give a name without .gz")
    parts = [part(path) for path in options.shards]
    check(parts)
    parts.sort(key=lambda one: one.shard.index)
    gaps = list(missing(parts))
    compared = [one.compared for one in parts if one.compared]
    if compared:
        code = conclude(whole := together(compared, gaps), parts[0].shard)
        whole.save(options.output)
    else:
        code = OK
        files.write(options.output, "".join(f"{files.seal(line)}\n" for one in parts for line in one.lines))
    for gap in gaps:
        print(f"missing: {gap.what}: {gap.reason}")
    rows, shard = sum(len(one.rows) for one in parts), parts[0].shard
    print(f"{options.output}: {rows} of {len(shard.split)} rows, {len(parts)} of {shard.count} shards")
    return FAILED if gaps and code in (OK, UNDECIDED) else code


@dataclass(frozen=True)
class Part:
    """Is the result of one shard: the ids of its rows, and the lines of its evidence or what it `compared`."""

    path: Path
    shard: Shard
    rows: frozenset[str]
    lines: Sequence[dict[str, Any]] = ()
    compared: Comparison | None = None


def part(path: Path) -> Part:
    """Reads a file of one shard. Raises ValueError, in one line, for any other."""
    from perf.measure.evidence import shards

    if _verdicts(path):
        return _compared(path)
    rows = frozenset(row.workload.id for row in read_evidence(path, "merge")[0])
    lines = [line for _, line in files.read(path) if isinstance(line, dict)]
    known = shards(path)
    if not known:
        raise ValueError(f"{path}: is no shard: it was measured without --perf-shard")
    shard, runs = known[0], sum(line["kind"] == "machine" for line in lines)
    if known != [shard] * runs or any(shard.split.get(name) != shard.index for name in rows):
        raise ValueError(f"{path}: holds another run beside shard {shard.name}; give each a file of its own, by "
                         "--perf-evidence")
    return Part(path, shard, rows, lines)


def _verdicts(path: Path) -> bool:
    """Tells whether a file's first line is that of a record of verdicts; lines of evidence are whole objects."""
    try:
        with path.open("rb") as file:
            return file.readline(3).strip() == b"{"
    except OSError:
        return False


def _compared(path: Path) -> Part:
    from perf.measure.evidence import Shard

    compared = load(path)
    rows = frozenset(finding.benchmark for finding in compared.findings)
    if not compared.shard:
        raise ValueError(f"{path}: is no shard: it was compared without --perf-shard")
    try:
        shard = Shard.from_dict(dict(compared.shard))
        if any(shard.split.get(name) != shard.index for name in rows):
            raise ValueError("a row is another shard's")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no shard: {first_line(error)}; measure it again") from None
    return Part(path, shard, rows, compared=compared)


def check(parts: Sequence[Part]) -> None:
    """Raises ValueError, in one line, for shards that don't belong together."""
    first, paths = parts[0], dict[int, Path]()
    for one in parts:
        if (one.compared is None) != (first.compared is None):
            raise ValueError(f"{one.path} and {first.path} don't belong together: one holds evidence, one verdicts")
        for what, here, there in _differences(one.shard, first.shard):
            raise ValueError(f"{one.path} and {first.path} don't belong together: the {what} is {here!r} and "
                             f"{there!r}; measure one again as the other was")
        if other := paths.get(one.shard.index):
            raise ValueError(f"{one.path} and {other} are both shard {one.shard.name}; give one of them")
        paths[one.shard.index] = one.path


def _differences(here: Shard, there: Shard) -> Iterator[tuple[str, Any, Any]]:
    """Yields what two runs don't have in common, and what each has."""
    for name, what in ALIKE.items():
        if getattr(here, name) != getattr(there, name):
            yield what, getattr(here, name), getattr(there, name)
    for what, one, other in (("option {!r}", here.options, there.options), ("shard of {!r}", here.split, there.split)):
        for name in {**other, **one}:
            if one.get(name) != other.get(name):
                yield what.format(name), one.get(name), other.get(name)


def missing(parts: Sequence[Part]) -> Iterator[Failed]:
    """Names the shards that are not there, and those that ended early."""
    given, shard = {one.shard.index: one for one in parts}, parts[0].shard
    again = "measure that shard again" if parts[0].compared else "measure them there by --perf-resume"
    for index in range(1, shard.count + 1):
        name = f"shard {index}/{shard.count}"
        ids = [one for one, at in shard.split.items() if at == index]
        if index not in given:
            yield Failed(name, f"{len(ids)} rows")
        elif lost := [one for one in ids if one not in given[index].rows]:
            yield Failed(name, f"{len(lost)} of {len(ids)} rows, {lost[0]} the first; {again}")


def together(parts: Sequence[Comparison], gaps: Sequence[Failed]) -> Comparison:
    """Makes one comparison of its parts, which carries no rounds. What all rows say together is said anew."""
    from perf.verdict.verdict import family

    findings = tuple(replace(finding, rounds=()) for one in parts for finding in one.findings)
    verdicts = {finding.benchmark: finding.row().verdict for finding in findings}
    notes = dict.fromkeys(note for one in parts for note in one.notes)
    return replace(parts[0], time=min(one.time for one in parts), findings=findings, failed=tuple(gaps),
                   notes=(*notes, *family(verdicts)), shard={})


def conclude(whole: Comparison, shard: Shard) -> int:
    """Prints the table of all verdicts, and gives the exit code of the comparison as one run's."""
    from perf.policy import accepted, here
    from perf.report.verdicts import table
    from perf.run.against import exit_code, outcome

    rows = [finding.row() for finding in whole.findings]
    entries, problems = accepted.load(here(accepted.FILE))
    results = {outcome(row, accepted.why_accepted(entries, row.workload.id), lenient=bool(shard.options.get("lenient")))
               for row in rows}
    print(table(rows, [*whole.notes, *problems]))
    return exit_code({row.word for row in rows}, failed="failed" in results, left_open="open" in results,
                     unlisted=bool(shard.options.get("unlisted")))
