"""The one line that says what is wrong with a file, where, and what was expected."""
from __future__ import annotations

from pathlib import Path


def wrong(path: str | Path, expected: str, found: object, line: int | None = None) -> ValueError:
    """To raise: `path:line: expected ..., found ...`."""
    where = f"{path}:{line}" if line is not None else str(path)
    text = found if isinstance(found, str) else repr(found)
    shown = " ".join(text.split())
    return ValueError(f"{where}: expected {expected}, found {shown if len(shown) <= 80 else shown[:77] + '...'}")
