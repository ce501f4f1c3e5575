"""Checks what was read from JSON against the types that a dataclass declares."""
from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

YEAR_10000 = 253402300800  # in seconds since 1970: no date can be told from then on
LARGEST = 1e30  # no figure of ours is larger, and floating point can still compute with its square


def check(record: Any) -> None:
    """Raises TypeError, in one line, for a dataclass with a field of another type than its class declares."""
    declared: Any = type(record)
    for name, kind in _kinds(declared).items():
        if not fits(value := getattr(record, name), kind):
            raise TypeError(f"{name}: not {getattr(kind, '__name__', kind)}: {value!r:.60}")


@functools.cache
def _kinds(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def fits(value: Any, kind: Any) -> bool:
    """Tells whether a value is of a declared type. A whole number is a float as well, a list a tuple; True is no
    number, nor is what is beyond `LARGEST`, but infinity."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin in (tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in value.items())
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (kind is float and isinstance(value, float) and not LARGEST <= abs(value) < float("inf"))
    return isinstance(value, kind)
