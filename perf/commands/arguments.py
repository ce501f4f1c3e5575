"""What the commands that read an evidence file share."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence


class Parser(argparse.ArgumentParser):
    """Raises ValueError, in one line, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read(path: Path, verb: str) -> tuple[list[Evidence], dict[str, dict[str, Any]]]:
    """The evidence of a file and its machines by id. Raises ValueError if there is none to `verb`."""
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
