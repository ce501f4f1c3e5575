"""Optional packages: one line that says what is missing, what for, and what to do."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(package: str, why: str, extra: str = "quality") -> Iterator[None]:
    """Turns an ImportError inside into one line."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{package} is needed {why}: pip install 'attention-perf[{extra}]' ({error})") from error
