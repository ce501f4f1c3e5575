"""Writes a comparison for other programs: CSV, PyTorch's benchmark database, a webhook, a workflow of GitHub Actions.

The database's records are as vLLM's benchmarks write them, a metric each, in its schema v3
(https://github.com/pytorch/pytorch/wiki/How-to-integrate-with-PyTorch-OSS-benchmark-database): what its upload adds
(runners, repository, workflow) is left to it. A workflow shows annotations and the job's summary by itself. Annotations
are commands on standard output, so text of others is escaped as the runner's own toolkit does:
https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
"""
from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from perf.alerts.markdown import plain
from perf.alerts.sets import Why, alarms
from perf.alerts.table import ordered
from perf.alerts.text import verdict
from perf.compare.record import Comparison, Finding
from perf.report.units import change_in_percent
from perf.workloads import ids
from perf.workloads.workload import GRADIENTS

COLUMNS = tuple(field.name for field in fields(Finding) if field.name != "samples")
NIGHT = ("date", "machine", "hardware", "environment")  # columns that are the same in all rows
MOST = 10  # alarms of one kind: GitHub shows no more of a step
WARNINGS = ("invalid", "missing", "inconclusive")
LARGEST = 1024 * 1024  # bytes that a step's summary may have
# A cell that begins so is a formula to a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(comparison: Comparison) -> str:
    """Writes a row for each finding, with the date and machine; an unknown number is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*NIGHT, "base_revision", "head_revision", *COLUMNS))
    same = [*(getattr(comparison, name) for name in NIGHT), comparison.base, comparison.head]
    for f in comparison.findings:
        writer.writerow([_cell(value) for value in (*same, *(getattr(f, name) for name in COLUMNS))])
    return out.getvalue()


def to_pytorch(comparison: Comparison) -> str:
    """Writes a JSON list of the findings that have a figure of the head."""
    records = [_record(comparison, f) for f in comparison.findings if f.head is not None]
    return json.dumps(records, indent=1, allow_nan=False)


def _record(comparison: Comparison, f: Finding) -> dict[str, Any]:
    parts = ids.parse(f.benchmark)  # without torch, which the job that exports may lack
    mode = "training" if parts and parts["phase"] in GRADIENTS else "inference"
    more = {"verdict": f.word, "unit": f.unit, "base": f.base, "ratio": f.ratio, "low": f.low, "high": f.high,
            "pairs": f.pairs, "base_revision": comparison.base, "head_revision": comparison.head}
    place = {"machine": comparison.machine, "hardware": comparison.hardware, "date": comparison.date}
    return {
        "benchmark": {"name": "attention-perf", "mode": mode, "dtype": parts["dtype"] if parts else "",
                      "extra_info": place},
        "model": {"name": f.benchmark, "type": "attention", "backend": parts["backend"] if parts else "",
                  "origins": ["attention-perf"]},
        "metric": {"name": f.figure, "benchmark_values": [f.head],
                   "extra_info": {name: str(value) for name, value in more.items() if value is not None}}}


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def to_webhook(comparison: Comparison, accepted: Why) -> dict[str, Any]:
    """Puts the worst alarms into "text", which chat services show (Slack, Mattermost, Discord's /slack address), and
    all of them into "alarms", for a program."""
    worst = alarms(comparison, accepted)
    title = f"Performance, {comparison.date}, {comparison.hardware}: {verdict(comparison, accepted)}"
    more = [f"and {len(worst) - MOST} more"] if len(worst) > MOST else []
    lines = [title, *map(_alarm, worst[:MOST]), *more]
    text = "\n".join(html.escape(plain(line), quote=False) for line in lines)  # to Slack "<" begins a mention or a link
    return {"text": text, "machine": comparison.machine, "base": comparison.base, "head": comparison.head,
            "alarms": [{"benchmark": f.benchmark, "figure": f.figure, "word": f.word, "ratio": f.ratio,
                        "since": f.since} for f in worst]}


def _alarm(f: Finding) -> str:
    change = f", {change_in_percent(f.ratio)} %" if f.ratio is not None else ""
    since = f", since {f.since}" if f.since else ""
    return f"{f.word}: {f.benchmark}{change}{since}"


def annotate(comparison: Comparison, accepted: Why) -> Iterator[str]:
    """Yields an error for each of the worst alarms, and a warning for each finding that could not be decided."""
    errors = alarms(comparison, accepted)[:MOST]
    warnings = [f for f in ordered(comparison.findings) if f.word in WARNINGS][:MOST]
    yield from (_command("error", f) for f in errors)
    yield from (_command("warning", f) for f in warnings)


def append(path: Path, text: str) -> None:
    """Appends to the summary of a job's step. Raises OSError."""
    encoded = text.encode()
    if len(encoded) > LARGEST:
        encoded = encoded[:LARGEST - 4].decode(errors="ignore").encode()
    with path.open("ab") as file:
        file.write(encoded)


def _command(kind: str, f: Finding) -> str:
    title, message = plain(f.benchmark), plain(f"{f.word}: {f.why}", 500)
    return f"::{kind} title={_escape(title).replace(':', '%3A').replace(',', '%2C')}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
