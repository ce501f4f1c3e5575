"""A night for other tools: CSV, and the records of PyTorch's open-source benchmark database.

The records are as vLLM's benchmarks write them, a metric each, in the database's schema v3
(https://github.com/pytorch/pytorch/wiki/How-to-integrate-with-PyTorch-OSS-benchmark-database): what its upload adds
(runners, repository, workflow) is left to it.
"""
from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from typing import Any

from perf.compare.record import Finding, Night
from perf.workloads import ids

COLUMNS = tuple(field.name for field in fields(Finding) if field.name != "samples")
NIGHT = ("date", "machine", "hardware", "environment")  # columns that are the same in all rows
# A cell that begins so is a formula to a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
TRAINING = ("backward", "forward-backward", "train-step")


def to_csv(night: Night) -> str:
    """A row a finding, with the night's date and machine; an unknown number is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*NIGHT, "base_revision", "head_revision", *COLUMNS))
    same = [*(getattr(night, name) for name in NIGHT), night.base, night.head]
    for f in night.findings:
        writer.writerow([_cell(value) for value in (*same, *(getattr(f, name) for name in COLUMNS))])
    return out.getvalue()


def to_pytorch(night: Night) -> str:
    """A JSON list of what has a figure of the head."""
    return json.dumps([_record(night, f) for f in night.findings if f.head is not None], indent=1, allow_nan=False)


def _record(night: Night, f: Finding) -> dict[str, Any]:
    parts = ids.parse(f.benchmark)  # without torch, which the job that exports may lack
    mode = "training" if parts and parts["phase"] in TRAINING else "inference"
    told = {"verdict": f.word, "unit": f.unit, "base": f.base, "ratio": f.ratio, "low": f.low, "high": f.high,
            "pairs": f.pairs, "base_revision": night.base, "head_revision": night.head}
    return {
        "benchmark": {"name": "attention-perf", "mode": mode, "dtype": parts["dtype"] if parts else "",
                      "extra_info": {"machine": night.machine, "hardware": night.hardware, "date": night.date}},
        "model": {"name": f.benchmark, "type": "attention", "backend": parts["backend"] if parts else "",
                  "origins": ["attention-perf"]},
        "metric": {"name": f.figure, "benchmark_values": [f.head],
                   "extra_info": {name: str(value) for name, value in told.items() if value is not None}}}


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
