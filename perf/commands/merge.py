"""Puts the evidence of shards together, in one file that is read as that of one run: SHARD... -o FILE.

The shards are those of `pytest perf/ --perf-shard i/n`, of one commit, on machines of one kind, with the same options.
What is missing is said, and the file holds the rest.

Exit codes: 0 all of the run; 1 some of it is missing; 2 refused, in one line, and nothing is written.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.commands.parser import Commands, command, read_evidence
from perf.system import files
from perf.system.exit_codes import FAILED, OK

if TYPE_CHECKING:
    from perf.measure.evidence import Shard

ALIKE = {"count": "number of shards", "machine": "machine", "revision": "commit"}


def add(commands: Commands) -> None:
    parser = command(commands, "merge", run, __doc__)
    parser.add_argument("shards", metavar="SHARD", nargs="+", type=Path, help="evidence file of a shard")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="evidence file to write")


def run(options: argparse.Namespace) -> int:
    """Raises ValueError, in one line, for what is no shard, and for shards that don't belong together."""
    if options.output in options.shards:
        raise ValueError(f"-o {options.output}: is one of the shards; name another file")
    if options.output.suffix == ".gz":
        raise ValueError(f"-o {options.output}: is written as text; give a name without .gz")
    parts = [part(path) for path in options.shards]
    check(parts)
    parts.sort(key=lambda one: one.shard.index)
    files.write(options.output, "".join(f"{files.seal(line)}\n" for one in parts for line in one.lines))
    gaps = list(missing(parts))
    for gap in gaps:
        print(f"missing: {gap}")
    rows, shard = sum(len(one.rows) for one in parts), parts[0].shard
    print(f"{options.output}: {rows} of {len(shard.split)} rows, {len(parts)} of {shard.count} shards")
    return FAILED if gaps else OK


@dataclass(frozen=True)
class Part:
    """Is the evidence of one shard: its lines, and the ids of its rows."""

    path: Path
    shard: Shard
    lines: Sequence[dict[str, Any]]
    rows: frozenset[str]


def part(path: Path) -> Part:
    """Reads a file of one shard. Raises ValueError, in one line, for any other."""
    from perf.measure.evidence import shards

    rows = frozenset(row.workload.id for row in read_evidence(path, "merge")[0])
    lines = [line for _, line in files.read(path) if isinstance(line, dict)]
    known = shards(path)
    if not known:
        raise ValueError(f"{path}: is no shard: it was measured without --perf-shard")
    shard, runs = known[0], sum(line["kind"] == "machine" for line in lines)
    if known != [shard] * runs or any(shard.split.get(name) != shard.index for name in rows):
        raise ValueError(f"{path}: holds another run beside shard {shard.name}; give each a file of its own, by "
                         "--perf-evidence")
    return Part(path, shard, lines, rows)


def check(parts: Sequence[Part]) -> None:
    """Raises ValueError, in one line, for shards that don't belong together."""
    first, paths = parts[0], dict[int, Path]()
    for one in parts:
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


def missing(parts: Sequence[Part]) -> Iterator[str]:
    """Names the shards that are not there, and those that ended early."""
    given, shard = {one.shard.index: one for one in parts}, parts[0].shard
    for index in range(1, shard.count + 1):
        ids = [name for name, at in shard.split.items() if at == index]
        if index not in given:
            yield f"shard {index}/{shard.count}, {len(ids)} rows"
        elif lost := [name for name in ids if name not in given[index].rows]:
            yield (f"{len(lost)} of {len(ids)} rows of shard {index}/{shard.count}, {lost[0]} the first; measure them "
                   "there by --perf-resume")
