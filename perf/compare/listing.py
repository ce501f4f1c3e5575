"""Lists what a revision would measure under the same options, so that what only the base has is seen as missing.

`python -m perf.compare.listing`, run in the revision's folder: a request in JSON on stdin, the workloads on the
last line of stdout.
"""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from perf.compare.side import Side
from perf.system.tools import ending, last_line
from perf.workloads.workload import Workload

KNOWN_BY_REVISION = ("function", "backend")  # axes whose values a revision may lack


def listed(side: Side, *, grid: str, device_type: str, axes: Mapping[str, Sequence[Any]],
           with_shapes: bool) -> list[Workload]:
    """Lists the workloads of a side. Raises ValueError, in one line, for one that can't be imported."""
    request = {"grid": grid, "device_type": device_type, "axes": {k: list(v) for k, v in axes.items()},
               "with_shapes": with_shapes}
    done = subprocess.run([side.python, "-m", __name__], input=json.dumps(request), cwd=side.folder,
                          env=side.variables(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = last_line(done.stderr, ending(done.returncode))
        raise ValueError(f"its {' or '.join(side.packages)} can't be imported: {last}")
    return [Workload(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def select(grid: str, device_type: str, axes: Mapping[str, Sequence[Any]], with_shapes: bool) -> list[Workload]:
    """Selects as `perf.workloads.axes.select` does, but leaves out values that this revision lacks."""
    from perf.workloads import axes as options
    from perf.workloads.grids import order

    workloads = []
    for part in _parts(axes):
        try:
            workloads += options.select(grid, device_type, part, with_shapes=with_shapes)
        except (ValueError, KeyError):  # this function is not registered here, or not on this backend
            continue
    return order(workloads)


def _parts(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Sequence[Any]]]:
    """Yields the axes with one value each of those that a revision may lack: one of them leaves the others alone."""
    names = [name for name in KNOWN_BY_REVISION if name in axes]
    for values in product(*(axes[name] for name in names)):
        yield {**axes, **{name: [value] for name, value in zip(names, values, strict=True)}}


if __name__ == "__main__":
    print(json.dumps([asdict(w) for w in select(**json.loads(sys.stdin.read()))]))
