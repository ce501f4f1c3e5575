"""Writes the table of races and invariance in docs/invariance.md, from a record of `python -m perf invariance`."""
from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perf.bench.invariance import CHECKS, Finding
from perf.system import files

Record = dict[str, Any]


def load(path: Path) -> tuple[Record, list[Finding]]:
    """Reads a record: the machine and the case it was made of, and the findings. Raises ValueError for another file."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        head, *rows = [files.from_json(line.decode()) for line in text.splitlines()]
        findings = [Finding(**row) for row in rows]
        for finding in findings:
            files.check_types(finding)
            if finding.reason is None and set(finding.differences) != set(CHECKS):
                raise ValueError
        if head["kind"] == "invariance":
            return head, findings
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path} is no record of python -m perf invariance")


def table(findings: Iterable[Finding]) -> str:
    """Writes a line a variant and phase in Markdown; variants that can't run there are left out."""
    lines = [f"| variant | phase | {' | '.join(CHECKS)} |", "|---" * (2 + len(CHECKS)) + "|"]
    for finding in findings:
        if finding.reason is None:
            cells = (difference(finding.differences[check]) for check in CHECKS)
            lines.append(f"| {finding.variant} | {finding.phase} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(value: float | None) -> str:
    """Writes a difference as "same", "6e-08", or "-" where the check has no meaning."""
    return "-" if value is None else f"{value:.0e}" if value else "same"


def summary(findings: Iterable[Finding]) -> str:
    """Counts, in a sentence, how many variants and phases give the same bits in each check."""
    examined = [finding for finding in findings if finding.reason is None]
    parts = []
    for check in CHECKS:
        values = [finding.differences[check] for finding in examined if finding.differences[check] is not None]
        if values:
            parts.append(f"{check} {sum(not value for value in values)} of {len(values)}")
    return f"{len(examined)} variants and phases; the same bits: {', '.join(parts)}."
