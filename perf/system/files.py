"""Writes files at once: whoever reads meanwhile, or after a kill, sees the old file or the new one."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Writes a text file at once, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder on the same disk for a while: what is written there is moved into `folder` at once."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
