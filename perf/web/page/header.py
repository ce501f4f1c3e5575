"""Heads the page: what was measured, where, when, and in what state the machine was."""
from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from perf.measure.evidence import Evidence
from perf.measure.machine import clocks
from perf.web.page.markup import Markup, heading, tag

# What a key is called, and its unit; any other is shown as it is, with "_" as a space.
LABELS = {
    "gpus": "GPU", "cpu": "CPU", "cuda": "CUDA", "cudnn": "cuDNN", "os": "OS", "ecc": "ECC", "ecc_errors": "ECC errors",
    "clocks_locked_mhz": "clocks locked at", "sm_mhz": "SM clock", "sm_mhz_limit": "largest SM clock",
    "sm_drift": "SM clock drift", "mem_mhz": "memory clock", "throttle": "clocks held down by",
    "foreign_processes": "others on the GPU", "foreign_cores": "cores busy with others", "free_bytes": "free memory",
    "gpu_free_bytes": "free GPU memory", "cpu_mhz": "CPU clock", "cpu_temperature": "CPU temperature",
    "readings": "readings a row"}
UNITS = {"power_limit": "W", "power": "W", "clocks_locked_mhz": "MHz", "sm_mhz": "MHz", "sm_mhz_limit": "MHz",
         "mem_mhz": "MHz", "cpu_mhz": "MHz", "sm_drift": "%", "utilisation": "%", "temperature": "°C",
         "cpu_temperature": "°C", "free_bytes": "GB", "gpu_free_bytes": "GB"}
FACTORS = {"sm_drift": 100.0, "free_bytes": 1e-9, "gpu_free_bytes": 1e-9}  # of these one unit is so many
NOT_SHOWN = ("kind", "schema", "id")


def header(rows: Sequence[Evidence], machine: Mapping[str, Any], left_out: int, title: str,
           command: str | None) -> Markup:
    """Shows the title and the machine of `rows`, all of one machine; `left_out` counts the file's other rows."""
    where = _text(machine.get("gpus")) or _text(machine.get("cpu")) or f"machine {rows[-1].machine}"
    run = {"measured": _when(rows), "revision": _count(_short(row.revision) for row in rows),
           "clock": _count(row.clock for row in rows if row.clock), "command": command,
           "left out": f"{left_out} rows of other machines, or measured again later" if left_out else None}
    settings = {key: value for key, value in machine.items() if key not in NOT_SHOWN}
    settings["clocks"] = _count(text for row in rows if (text := clocks(dict(machine), row.state)))
    return tag(
        "header",
        heading(title),
        tag("p", where, class_="where"),
        tag("div", _list("Run", run), _list("Machine", settings),
            _list("While it was timed", state_ranges(rows)), class_="facts"))


def state_ranges(rows: Iterable[Evidence]) -> dict[str, str]:
    """Sums up the rows' states: the ends and the median of a number, else each value and how often.

    "x_min" and "x_max" of a state are ends of its "x".
    """
    by_name: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.state.items():
            by_name.setdefault(name, []).append(value)
    ends = {f"{name}{end}" for name in by_name for end in ("_min", "_max")}
    return {name: _range(values, [*values, *by_name.get(f"{name}_min", ()), *by_name.get(f"{name}_max", ())],
                         FACTORS.get(name, 1.0)) for name, values in by_name.items() if name not in ends}


def _range(values: Sequence[Any], extremes: Sequence[Any], factor: float) -> str:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in extremes):
        return _count(_text(value) or "none" for value in values)
    low, middle, high = (f"{factor * value:.4g}" for value in (
        min(extremes), statistics.median(values), max(extremes)))
    return low if low == high else f"{low} to {high}, median {middle}"


def _list(name: str, values: Mapping[str, Any]) -> Markup | None:
    pairs = [tag("div", tag("dt", LABELS.get(key, str(key).replace("_", " "))),
                 tag("dd", f"{text} {UNITS.get(key, '')}".rstrip()), class_="wide" if len(text) > 40 else None)
             for key, value in values.items() if (text := _text(value))]
    return tag("section", tag("h2", name), tag("dl", *pairs), class_="card") if pairs else None


def _text(value: Any) -> str:
    """Writes a value of JSON in words, and nothing for none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, each in value.items() if (text := _text(each)))
    if isinstance(value, (list, tuple)):
        texts = [_text(each) for each in value]
        return f"{len(texts)} x {texts[0]}" if len(texts) > 1 == len(set(texts)) else ", ".join(texts)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(values: Iterable[str]) -> str:
    """Lists the different values, and how often each, if they differ."""
    counts = Counter(values)
    return next(iter(counts), "") if len(counts) < 2 else ", ".join(
        f"{count} x {value}" for value, count in counts.most_common())


def _short(revision: str | None) -> str:
    """Returns a commit's first twelve digits, and what follows its forty."""
    return revision[:12] + revision[40:] if revision else "not known"


def _when(rows: Sequence[Evidence]) -> str:
    first, last = (datetime.fromtimestamp(moment, UTC) for moment in (min(r.time for r in rows),
                                                                      max(r.time for r in rows)))
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end} UTC"
