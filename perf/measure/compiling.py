"""Compile seconds are told apart from run time: cold, and warm where torch.compile's caches on disk had the code.

Every process compiles anew; what an earlier one left in the caches makes that a matter of tracing. Both
are figures of a compiled row: a 3 x speed-up that costs 90 s at each start is another product.
"""
from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perf.measure import machine
from perf.system import files

SCHEMA = 1
MISSES = (("inductor", "fxgraph_cache_miss"), ("inductor", "fxgraph_cache_bypass"),
          ("aot_autograd", "autograd_cache_miss"))


@dataclass
class Compiled:
    """Counts what was compiled while one workload was prepared and called first."""

    seconds: float = 0.0
    graphs: int = 0
    cold: bool = False  # some of it was not in the caches

    def figures(self) -> dict[str, float]:
        """Gives the seconds and graphs as evidence keeps them; empty if nothing was compiled."""
        if not self.graphs:
            return {}
        return {"cold" if self.cold else "warm": self.seconds, "graphs": self.graphs}


_forgotten = 0  # times


def forget() -> None:
    """Makes torch.compile forget all that it compiled, and its seconds.

    Code compiled for one shape would be made dynamic for the next; and past a number of recompilations of one
    function it is run eagerly without a word, where all models of a family are one function.
    """
    global _forgotten
    if "torch._dynamo" in sys.modules:
        import torch

        torch.compiler.reset()
        _forgotten += 1


@contextmanager
def compiling() -> Iterator[Compiled]:
    """Fills in what torch.compile did meanwhile, backward passes included."""
    compiled, (seconds, graphs, misses), forgotten = Compiled(), _so_far(), _forgotten
    yield compiled
    seconds_after, graphs_after, misses_after = _so_far()
    # Forgetting, done before anything is compiled, begins the seconds anew; the other counts go on.
    compiled.seconds = seconds_after - (seconds if _forgotten == forgotten else 0.0)
    compiled.graphs = graphs_after - graphs
    compiled.cold = misses_after > misses


@contextmanager
def cold() -> Iterator[Compiled]:
    """Does as `compiling` in empty disk caches, so that all is cold whatever other processes have compiled."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), compiling() as compiled:
        yield compiled


def _so_far() -> tuple[float, int, int]:
    """Gives the seconds, graphs and cache misses of this process."""
    if "torch._dynamo" not in sys.modules:  # its import takes two seconds
        return 0.0, 0, 0
    from torch._dynamo.utils import compilation_time_metrics, counters

    # A forward pass is compiled within dynamo's frame, its backward pass when it is first called.
    seconds = sum(sum(seconds_of_phase) for phase, seconds_of_phase in compilation_time_metrics.items()
                  if phase == "_compile.compile_inner" or "bw_compiler" in phase)
    return seconds, counters["stats"]["unique_graphs"], sum(counters[group][name] for group, name in MISSES)


@dataclass
class Ledger:
    """Keeps seconds of this machine's workloads, by id, from run to run in one file: of compilation, cold and warm, and
    of whole rows that were measured last."""

    folder: Path
    known: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            record = files.from_json(self.path.read_text(encoding="utf-8"))
            if record["schema"] == SCHEMA:
                self.known = record["compiled"]
                self.rows = record.get("rows", {})
                files.check_types(self)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.known, self.rows = {}, {}  # nothing is lost but old compile times: they are measured again

    @property
    def path(self) -> Path:
        return self.folder / f"compiled-{machine.identity()}.json"

    def add(self, workload: str, figures: dict[str, float]) -> dict[str, float]:
        """Adds figures of a workload, and gives all that the ledger has of it."""
        if figures:
            self.known[workload] = {**self.known.get(workload, {}), **figures}
            self._write()
        return self.known.get(workload, {})

    def add_row(self, workload: str, seconds: float) -> None:
        """Keeps what measuring a row took."""
        self.rows[workload] = seconds
        self._write()

    def _write(self) -> None:
        """Writes the file; where it can't be written, that is said, and costs no row."""
        try:
            files.write(self.path, json.dumps({"schema": SCHEMA, "compiled": self.known, "rows": self.rows}))
        except OSError as error:
            warnings.warn(f"perf: {self.path}: {error.strerror}: the seconds of compilation are not kept", stacklevel=3)
