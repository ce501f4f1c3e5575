"""Finds asv's graph of a workload's figure among those that were published, and its address.

The address has its parameters chosen as asv's own page does (www/asv.js, asv 0.6.6):

    asv/index.html#attention.SoftmaxForwardH8D64Fp32.time_call?machine=a100&p-backend='fa2'&p-n=1024

A parameter of the benchmark is "p-" and its name, its value Python's repr; what else asv tells series apart by
(machine, versions) stands under its own name, and only where it has two values or more. "x-axis" is "commit" or a
parameter, "y-axis-scale" is "log", "commits" marks a commit or a range.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from perf.history.series import common, series
from perf.workloads.workload import Workload


class Graphs:
    """Holds the graphs that asv has published in a folder; none, if it hasn't."""

    def __init__(self, folder: Path) -> None:
        index = folder / "index.json"
        published: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
        self.benchmarks: Mapping[str, Any] = published.get("benchmarks", {})
        self._properties = [name for name, values in published.get("params", {}).items()
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
        chosen: dict[str, Sequence[str | None]] = {key: [properties.get(key)] for key in self._properties}
        values = {axis: repr(values_of_axis[0]) for axis, values_of_axis in one.axes.items()}
        axes = zip(self.benchmarks[name]["param_names"], self.benchmarks[name]["params"], strict=True)
        for axis, known in axes:
            if over_length and axis in ("n", "backend"):
                chosen[f"p-{axis}"] = known
            elif values[axis] not in known:
                return None
            elif len(known) > 1:
                chosen[f"p-{axis}"] = [values[axis]]
        return address(name, chosen, commits=commits, over="n" if over_length else None)


PAGE = "asv/index.html"
NONE = "[none]"  # a value that is null
AS_ENCODE_URI_COMPONENT = "-_.!~*'()"


def address(benchmark: str, chosen: Mapping[str, Iterable[str | None]], *, commits: Sequence[str] = (),
            over: str | None = None) -> str:
    """Returns the address of `benchmark`'s graph, relative to the front page.

    `chosen` are the values shown of each parameter or property, none of one that is left open; the graph is `over` a
    parameter, or over the commits.
    """
    pairs = [(key, NONE if value is None else value) for key, values in chosen.items() for value in values]
    pairs += [("x-axis", over), ("y-axis-scale", "log")] if over else []
    pairs += [("commits", commit) for commit in commits]
    query = urlencode(pairs, safe=AS_ENCODE_URI_COMPONENT, quote_via=quote)
    return f"{PAGE}#{quote(benchmark, safe=AS_ENCODE_URI_COMPONENT)}{'?' + query if query else ''}"


def asv_page(name: str) -> str:
    """Returns the address of one of asv's own pages: "" is its grid, "summarylist", "regressions"."""
    return f"{PAGE}#/{name}"
