"""Makes the error for a bad file: one line with the place, what was expected and what is there."""
from __future__ import annotations

from pathlib import Path


def wrong(path: str | Path, expected: str, found: object, line: int | None = None) -> ValueError:
    """Gives a ValueError to raise: `path:line: expected ..., found ...`."""
    where = f"{path}:{line}" if line is not None else str(path)
    text = found if isinstance(found, str) else repr(found)
    short = " ".join(text.split())
    return ValueError(f"{where}: expected {expected}, found {short if len(short) <= 80 else short[:77] + '...'}")
