"""Explains a missing optional package in one line: which, what it is for, and how to install it."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(package: str, why: str, extra: str = "quality") -> Iterator[None]:
    """Turns an ImportError in its block into one line."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{package} is needed {why}: pip install 'attention-perf[{extra}]' ({error})") from error
