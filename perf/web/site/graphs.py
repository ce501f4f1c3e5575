"""Finds asv's graph of a workload's figure among those that were published, and its address."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.history.series import common, series
from perf.web.site import links
from perf.workloads.workload import Workload


class Graphs:
    """Holds the graphs that asv has published in a folder; none, if it hasn't."""

    def __init__(self, folder: Path) -> None:
        index = folder / "index.json"
        published: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
        self.benchmarks: Mapping[str, Any] = published.get("benchmarks", {})
        self._told_apart = [name for name, values in published.get("params", {}).items()
                            if len(values) > 1 and name != "branch"]

    def __bool__(self) -> bool:
        return bool(self.benchmarks)

    def link(self, w: Workload, figure: str, properties: Mapping[str, str], *, commits: Sequence[str] = (),
             over_length: bool = False) -> str | None:
        """Returns the address of a figure's graph at a place, or, `over_length`, of all backends of its series over n.

        None if there is none such.
        """
        one = series([w])[common(w)]
        if (name := f"{one.benchmark}.{figure}") not in self.benchmarks:
            return None
        chosen: dict[str, Sequence[str | None]] = {key: [properties.get(key)] for key in self._told_apart}
        values = {axis: repr(given[0]) for axis, given in one.axes.items()}
        axes = zip(self.benchmarks[name]["param_names"], self.benchmarks[name]["params"], strict=True)
        for axis, known in axes:
            if over_length and axis in ("n", "backend"):
                chosen[f"p-{axis}"] = known
            elif values[axis] not in known:
                return None
            elif len(known) > 1:
                chosen[f"p-{axis}"] = [values[axis]]
        return links.graph(name, chosen, commits=commits, x_axis="n" if over_length else None, log=over_length)
