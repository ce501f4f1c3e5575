"""Tools that several rooms share: an error or a process's end in one line, items in groups, what a user types."""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

COMPILERS = ("torch._dynamo.", "torch._inductor.", "triton.")  # what their errors' types are named after

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def first_line(error: BaseException) -> str:
    """Writes the first line of an error, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def failure(error: BaseException) -> str:
    """Writes an error in one line, its type first. A failed compilation carries the last line that says "error", which
    is the compiler's: what stands above it is its command."""
    line, text = first_line(error), str(error)
    if f"{type(error).__module__}.".startswith(COMPILERS) or "Error building extension" in text:
        last = [one.strip() for one in text.splitlines()[1:] if "error" in one.lower()][-1:]
        line = " ".join([line, *last])
    return f"{type(error).__name__}: {line}"


def last_line(text: str, otherwise: str) -> str:
    """Returns the last line that a process printed; `otherwise` if it printed nothing."""
    return (text.strip().splitlines() or [otherwise])[-1].strip()


def ending(code: int) -> str:
    """Names how a process ended: "exit status 3", "SIGKILL"."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def python() -> str:
    """Gives what a user types for this Python: `python`, or its path in an environment of tox, which no shell is in."""
    return min(os.path.relpath(sys.executable), sys.executable, key=len) if "TOX_ENV_NAME" in os.environ else "python"


def group_by(items: Iterable[T], key: Callable[[T], Key]) -> dict[Key, list[T]]:
    """Groups items that have the same key, in the order of the first of each."""
    groups: dict[Key, list[T]] = {}
    for one in items:
        groups.setdefault(key(one), []).append(one)
    return groups
