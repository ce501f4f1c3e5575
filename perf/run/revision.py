"""The working tree is compared with a revision, or in another environment: which benchmarks changed, and the verdict
on each.

    against = Against(settings)                        # ValueError, in one line, for what is no revision to measure
    rows = against.untimed(workloads)                  # of all that need no timing
    for row in against.compare(workloads, say): ...    # of one variant's others: they share their launches
    against.close()
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from perf.bench.prepare import why_not
from perf.compare import environments, metrics, pairs, project
from perf.compare.checkout import checkout, working_tree
from perf.compare.closure import changed, unchanged
from perf.compare.listing import listed
from perf.compare.record import Row
from perf.compare.side import ROOT, Side
from perf.run.options import Settings
from perf.system import git
from perf.verdict.verdict import Thresholds, Verdict
from perf.workloads.workload import Workload


class Against:
    """Holds both sides until it is closed: the head is the working tree of the repository at `root` (default: the one
    whose packages are measured), the base its revision `settings.against`, or the same tree, in the environment that
    the settings name.

    Raises ValueError, in one line, where the two can't be compared.
    """

    def __init__(self, settings: Settings, root: Path | None = None) -> None:
        self.settings = settings
        self.kind = pairs.kind(settings.device)
        for w in settings.workloads:
            pairs.settings(w, self.kind)  # raises for a threshold that makes no sense
        self.root = root = root or project.root()
        with ExitStack() as opening:
            self.head = opening.enter_context(working_tree(root))
            self.base = self.head
            if settings.against is not None:
                self.base = opening.enter_context(checkout(settings.against, root))
            if environment := _environment(settings, root):
                self.base = environments.inside(self.base, environment)
            self._open = opening.pop_all()
        self.name, self.commit = self.base.name, self.base.commit or ""
        self.spreads = pairs.Spreads(settings.evidence.with_name(pairs.SPREADS.name), settings.device)
        self.notes = [] if self.base.here else [f"the base: {self.name}"]
        self.unlisted = False  # the base can't be imported, as far as is known: what looks new may not be
        self.count = 0  # benchmarks that are timed in this run

    @property
    def versions(self) -> dict[str, Mapping[str, str]]:
        """Lists what is installed on each side, where that is not the same."""
        return {} if self.base.here else {"base": self.base.versions, "head": environments.installed()}

    @property
    def code(self) -> str:
        """Gives a hash of the head's packages and of the harness beside them, as they are now, committed or not. Raises
        ValueError outside git."""
        measured = project.project(self.root).paths
        return git.working_tree(self.root, *measured, *(["perf"] if measured and self.root == ROOT else []))

    def close(self) -> None:
        """Removes their folders."""
        self._open.close()

    def only_base(self) -> list[Workload]:
        """Lists what the revision would measure under the same options, and the working tree would not."""
        if self.base.missing or _tree(self.base) == _tree(self.head):
            return []
        here, asked = set(self.settings.workloads), self.settings
        try:
            there = listed(self.base, grid=asked.grid, device_type=asked.device.type, axes=asked.axes,
                           with_shapes=asked.shapes)
        except ValueError as error:
            self.unlisted = True
            self.notes.append(f"not known which benchmarks only {self.name} has: {error}")
            return []
        return [w for w in there if w not in here]

    def untimed(self, workloads: Sequence[Workload]) -> list[Row]:
        """Yields what runs the same code on both sides: skipped where neither can, else ok without timing, unless
        `settings.all` asks for it.

        `workloads` are all of the run's: how many are timed sets how sure an alarm has to be.
        """
        rows = []
        for w in workloads:
            if unchanged(w, self.base, self.head):
                if reason := why_not(w, self.settings.device):
                    rows.append(Row(w, Verdict("missing", why=reason), "skipped"))
                elif not self.settings.all:
                    rows.append(Row.unchanged(w))
        self.count = len(workloads) - len(rows)
        return rows

    def compare(self, workloads: Sequence[Workload], say: Callable[[str], None]) -> Iterator[Row]:
        """Yields each as soon as it is decided, and last what a GPU's own counters may explain. `say` is told a line
        after each launch pair."""
        seconds = pairs.budget(self.settings.device.type, len(workloads))
        cases: dict[str, pairs.Case] = {}
        unclear: list[pairs.Case] = []
        bodies = None if self.settings.all else lambda w: changed(w, self.base, self.head)
        for w, verdict in pairs.compare(workloads, self.base, self.head, self.settings.device, self._thresholds,
                                        seconds, say, cases=cases, earlier=self.spreads.earlier, changed=bodies):
            if cases[w.id].unclear:
                unclear.append(cases[w.id])
            else:
                yield cases[w.id].row(verdict)
        metrics.explain(unclear, self.base, self.head, str(self.settings.device))
        yield from (one.row(one.verdict()) for one in unclear)
        self.spreads.keep(cases.values())

    def _thresholds(self, w: Workload) -> Thresholds:
        return pairs.settings(w, self.kind, self.count)


def _environment(settings: Settings, root: Path) -> environments.Environment | None:
    if settings.against_python:
        return environments.interpreter(settings.against_python)
    return environments.with_versions(settings.against_versions, root) if settings.against_versions else None


def _tree(side: Side) -> dict[Path, bytes]:
    """Reads the Python files of a side's packages."""
    return {path.relative_to(side.folder): path.read_bytes()
            for package in side.packages for path in (side.folder / package).rglob("*.py")}
