"""Which commit tonight's is compared with: that of the last night that was quiet. Pure."""
from __future__ import annotations

from collections.abc import Iterable

from perf.alerts.sets import Why, alarms
from perf.compare.record import Night

MEASURED = "benchmarks"


def last_good(earlier: Iterable[Night], accepted: Why) -> str | None:
    """The head of the newest of `earlier` nights, the newest first, that was quiet; None without one."""
    return next((night.head for night in earlier if quiet(night, accepted)), None)


def quiet(night: Night, accepted: Why) -> bool:
    """Measured, compared if there was something to compare with, and nothing regressed that is not accepted by now.

    What is merely undecided does not stand in the way: tomorrow it would be so again, and the base would never move.
    """
    became = {step.name: step.outcome for step in night.steps}
    return became.get(MEASURED) == "ok" and became.get("verdict") != "failed" and not alarms(night, accepted)
