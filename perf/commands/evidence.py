"""The evidence file that a command is given."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence


def read(path: Path, verb: str) -> tuple[list[Evidence], dict[str, dict[str, Any]]]:
    """Returns the evidence of a file, and its machines by id. Raises ValueError if there is none to `verb`."""
    from perf.measure.evidence import load, machines

    try:
        rows, known = load(path), machines(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; give an evidence file, such as .perf/evidence.jsonl") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not evidence: not text; give an evidence file") from error
    if not rows:
        raise ValueError(f"{path}: nothing to {verb}: it holds no evidence; run pytest perf/ --benchmark-only first")
    return rows, known
