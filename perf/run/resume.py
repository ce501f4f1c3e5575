"""`--perf-resume` leaves out what an earlier run, interrupted, has measured already."""
from __future__ import annotations

from perf.measure import machine
from perf.measure.evidence import Evidence, load
from perf.run.options import Settings


def measured_before(settings: Settings) -> dict[str, Evidence]:
    """Reads the good rows of the evidence file, by workload id: those of this machine and this very commit.

    Raises ValueError, in one line, where there is no telling: uncommitted changes, no git, a broken file.
    """
    revision = machine.revision()
    if revision is None or revision.endswith("+dirty"):
        raise ValueError("--perf-resume: the working tree is no commit of its own, so no telling what the rows in "
                         f"{settings.evidence} measured; commit, or measure all of it")
    if not settings.evidence.exists():
        return {}
    return {row.workload.id: row for row in load(settings.evidence)
            if row.outcome == "ok" and row.machine == machine.identity() and row.revision == revision}
