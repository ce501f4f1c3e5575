"""The commit that tonight's is compared with: that of the last quiet night. Pure."""
from __future__ import annotations

from collections.abc import Iterable

from perf.alerts.sets import Why, alarms
from perf.compare.record import Comparison

BENCHMARKS = "benchmarks"


def last_quiet(earlier: Iterable[Comparison], accepted: Why) -> str | None:
    """Returns the head of the newest quiet night of `earlier`, which begins with the newest; None without one."""
    return next((one.head for one in earlier if quiet(one, accepted)), None)


def quiet(comparison: Comparison, accepted: Why) -> bool:
    """Tells whether a night measured, compared if there was something to compare with, and nothing regressed that is
    not accepted by now.

    What is merely undecided does not stand in the way: tomorrow it would be so again, and the base would never move.
    """
    outcomes = {step.name: step.outcome for step in comparison.steps}
    return outcomes.get(BENCHMARKS) == "ok" and outcomes.get("verdict") != "failed" and not alarms(comparison, accepted)
