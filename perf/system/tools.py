"""Tools that several rooms share: an error in one line, items in groups."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def first_line(error: BaseException) -> str:
    """Writes the first line of an error, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def group_by(items: Iterable[T], key: Callable[[T], Key]) -> dict[Key, list[T]]:
    """Groups items that have the same key, in the order of the first of each."""
    groups: dict[Key, list[T]] = {}
    for one in items:
        groups.setdefault(key(one), []).append(one)
    return groups
