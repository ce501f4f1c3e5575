"""Writes what today's harness measures into a file: the series of asv, and which of their cells are selected.

The axes come from the harness's own tree, never from the commit that is measured: asv numbers the
cells of a product, and a commit with one backend less would give every number another meaning.
The file also spares the suite importing torch. `python -m perf.history.matrix` prints it.
"""
from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from perf.history.series import Series, common, series
from perf.system import devices
from perf.workloads.grids import GRIDS, order
from perf.workloads.grids import grid as workloads_of
from perf.workloads.workload import Workload

FILE = "PERF_MATRIX"  # environment variables: the file's path,
GRID = "PERF_GRID"  # the grid to measure (default: quick)
DEVICE = "PERF_DEVICE"  # and where (default: cuda if there is a GPU, else cpu)


@dataclass(frozen=True)
class Matrix:
    """Holds all series of both device types, and the selected cells of each by the number that asv gives them.

    The axes hold what any option can name of the grids' shapes: every function, and the shapes of real models.
    """

    grid: str
    device: str
    series: list[Series]
    selected: dict[str, list[int]]
    fingerprint: dict[str, Any] = field(default_factory=dict)  # of the machine, as evidence has it

    def to_json(self) -> str:
        """Writes the matrix as JSON."""
        return json.dumps(asdict(self))

    def workloads(self) -> tuple[Workload, ...]:
        """Lists the workloads of the selected cells, backends of one shape next to one another."""
        cells = ((one.cells(), self.selected[one.benchmark]) for one in self.series)
        return tuple(order(all_of_one[number] for all_of_one, numbers in cells for number in numbers))

    @classmethod
    def from_json(cls, text: str) -> Matrix:
        """Reads a matrix that `to_json` wrote."""
        record = json.loads(text)
        return cls(**record | {"series": [Series(**one) for one in record["series"]]})


def build(grid: str, device: str | None) -> Matrix:
    """Makes the matrix of a grid on a device. Raises ValueError, in one line, if there is no such grid or device."""
    if grid not in GRIDS:
        raise ValueError(f"{GRID}: unknown grid {grid!r}; choose from {', '.join(GRIDS)}")
    try:
        device = str(devices.device(device))
    except ValueError as error:
        raise ValueError(f"{DEVICE}: {error}") from None
    every_series = all_series()
    selected: dict[str, list[int]] = {one.benchmark: [] for one in every_series.values()}
    for w in workloads_of(grid, device.partition(":")[0]):
        one = every_series[common(w)]
        selected[one.benchmark].append(one.index(w))
    return Matrix(grid, device, list(every_series.values()), selected)


def all_series() -> dict[Workload, Series]:
    """Lists the series of everything that this harness can put on asv's axes, by what their cells have in common."""
    # The grid's own first: what is measured only when it is named lengthens the axes, and renumbers nothing.
    grids = [workloads_of("full", device_type) for device_type in ("cpu", "cuda")]
    named = [workloads_of("full", device_type, with_shapes=True, with_zoo=True) for device_type in ("cpu", "cuda")]
    return series([w for cells in (*grids, *named) for w in cells])


@functools.cache
def current() -> Matrix:
    """Returns the matrix of this asv run; it is built here if the environment plugin wrote no file."""
    if FILE in os.environ:
        return Matrix.from_json(Path(os.environ[FILE]).read_text(encoding="utf-8"))
    return build(os.environ.get(GRID, GRIDS[0]), os.environ.get(DEVICE))


def main() -> int:
    """Prints the matrix that PERF_GRID and PERF_DEVICE ask for."""
    from perf.measure import machine

    try:
        built = build(os.environ.get(GRID, GRIDS[0]), os.environ.get(DEVICE))
    except ValueError as error:
        print(f"perf: {error}", file=sys.stderr)
        return 2
    print(replace(built, fingerprint=machine.fingerprint()).to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
