"""A change of driver, torch or GPU is a change of environment, not a regression: the history starts anew, and that is
said."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Environment = Mapping[str, Any]  # what a time depends on: perf.measure.machine.fingerprint(), without TOLD_ONLY


def began(nights: Sequence[Environment]) -> int:
    """The first night of tonight's environment, that is of the unbroken run of equal ones that ends tonight."""
    start = len(nights) - 1
    while start > 0 and dict(nights[start - 1]) == dict(nights[-1]):
        start -= 1
    return start


def said(nights: Sequence[Environment], enough: int) -> str | None:
    """One sentence if the environment changed and has fewer than `enough` nights before tonight yet."""
    start = began(nights)
    before = len(nights) - 1 - start
    if start == 0 or before >= enough:
        return None
    changes = "; ".join(differences(nights[start - 1], nights[start]))
    since = "tonight" if not before else f"{before} night{'' if before == 1 else 's'} ago"
    return (f"the environment changed {since} ({changes}): histories start anew, no change of time against earlier "
            f"nights is a regression, and until {enough} nights are known every benchmark is compared by live pairs")


def differences(old: Environment, new: Environment) -> list[str]:
    """"torch 2.11.0 -> 2.12.0", one for each name that differs."""
    return [f"{name} {_value(old.get(name))} -> {_value(new.get(name))}" for name in sorted({*old, *new})
            if old.get(name) != new.get(name)]


def _value(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
