"""`--perf-shard i/n` measures one of n parts of a run, on as many machines as there are parts.

What is compared with one another stays together: the backends of a function at one size, and a model with its
treatments. Every machine collects the same benchmarks and splits them alike, so nobody has to hand them out;
`python -m perf merge` puts the evidence together.
"""
from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from perf.measure.evidence import Shard, row_seconds
from perf.run.items import workload_of
from perf.run.options import Settings
from perf.system.tools import group_by
from perf.workloads.workload import Workload

# Workloads -> the seconds of each, by id, and what they are known by: "split by ...".
Weigh: TypeAlias = Callable[[Collection[Workload]], tuple[Mapping[str, float], str]]


def groups(workloads: Collection[Workload]) -> list[list[Workload]]:
    """Groups the workloads whose times are compared with one another."""
    return list(group_by(workloads, lambda w: w.plain.group).values())


def split(workloads: Collection[Workload], count: int, seconds: Mapping[str, float]) -> dict[str, int]:
    """Gives each workload's shard, 1 to `count`, by its id; in whatever order they come.

    The longest group goes first, each to the shard that has least (Graham, "Bounds on multiprocessing timing
    anomalies", 1969): no shard gets more than the mean and one group. A row of unknown `seconds` counts as the mean
    of those that are known. Raises ValueError if there are fewer groups than shards.
    """
    usual = statistics.fmean(known) if (known := [seconds[w.id] for w in workloads if w.id in seconds]) else 1.0
    sized = [(math.fsum(seconds.get(w.id, usual) for w in group), sorted(w.id for w in group))
             for group in groups(workloads)]
    if len(sized) < count:
        raise ValueError(f"only {len(sized)} groups of rows that are compared with one another; split into no more")
    loads, shards = [(0.0, 0)] * count, dict[str, int]()
    for size, ids in sorted(sized, key=lambda one: (-one[0], one[1])):
        least = min(range(count), key=lambda i: (*loads[i], i))
        loads[least] = (loads[least][0] + size, loads[least][1] + len(ids))
        shards |= dict.fromkeys(ids, least + 1)
    return {w.id: shards[w.id] for w in workloads}


def install(config: pytest.Config, settings: Settings) -> None:
    """Registers the split of a run that measures one revision. Raises pytest.UsageError, in one line, where the shards
    could not be put together again."""
    if not config.getoption("benchmark_only", False):
        raise pytest.UsageError("--perf-shard: splits benchmarks only; add --benchmark-only")
    options = {"device": settings.device.type, "grid": settings.grid, "precision": settings.precision,
               "unfit": settings.unfit, "quality": settings.quality}
    register(config, settings, committed("--perf-shard"), options, partial(_by_file, settings.shard_seconds))


def register(config: pytest.Config, settings: Settings, revision: str, options: Mapping[str, Any],
             weigh: Weigh) -> None:
    """Registers a split: `revision` and `options` are what the shards must have in common, `weigh` sizes the rows."""
    from perf.measure import machine

    assert settings.shard is not None
    config.pluginmanager.register(ShardRun(Shard(*settings.shard, machine.identity(), revision, options), weigh),
                                  "perf_shard")


def committed(option: str) -> str:
    """Returns the commit that is measured. Raises pytest.UsageError, in one line, where it is none."""
    from perf.measure import machine

    revision = machine.revision()
    if revision is None or revision.endswith("+dirty"):
        raise pytest.UsageError(f"{option}: the working tree is no commit of its own, so no telling whether the "
                                "other machines measure the same; commit first")
    return revision


class ShardRun:
    """Hooks into pytest: deselects what other shards measure, and says how the run was split."""

    def __init__(self, shard: Shard, weigh: Weigh) -> None:
        self.shard, self.weigh = shard, weigh
        self.line = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        measured = {item: w for item in items if (w := workload_of(item))}
        if not measured:
            raise pytest.UsageError("--perf-shard: the tests named measure no workload; drop it")
        seconds, how = self.weigh(list(measured.values()))
        try:
            shards = split(list(measured.values()), self.shard.count, seconds)
        except ValueError as error:
            raise pytest.UsageError(f"--perf-shard {self.shard.name}: {error}") from None
        self.shard = replace(self.shard, split=shards)
        others = [item for item, w in measured.items() if shards[w.id] != self.shard.index]
        away = set(others)
        items[:] = [item for item in items if item not in away]
        config.hook.pytest_deselected(items=others)
        self.line = f"shard {self.shard.name}: {len(measured) - len(others)} of {len(shards)} rows, split by {how}"

    def pytest_report_collectionfinish(self) -> str:
        return self.line


def _by_file(path: Path | None, workloads: Collection[Workload]) -> tuple[dict[str, float], str]:
    """Reads how long rows took. Raises pytest.UsageError for what is no evidence."""
    try:
        seconds = row_seconds(path) if path else {}
    except OSError as error:
        raise pytest.UsageError(f"--perf-shard-seconds: {path}: {error.strerror}; give an evidence file of an earlier "
                                "run") from None
    except ValueError as error:
        raise pytest.UsageError(f"--perf-shard-seconds: {error}") from None
    known, rows = len(seconds.keys() & {w.id for w in workloads}), len(workloads)
    if not known:
        return seconds, f"number, for {path or 'no --perf-shard-seconds'} says how long they take"
    return seconds, f"the seconds of {known} rows in {path}" + f", {rows - known} unknown" * (known < rows)
