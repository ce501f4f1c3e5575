"""A benchmark of a comparison: the verdict on it, and the times behind it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

# Of rows, in the order in which they are counted.
WORDS = ("wrong", "regressed", "improved", "ok", "unchanged", "inconclusive", "invalid", "missing", "new", "skipped")


@dataclass(frozen=True)
class Row:
    """The verdict on one benchmark; `base` and `head` are seconds of one call, None where nothing was timed.

    `word` is the verdict's, or "unchanged" (ok without timing), or "skipped" (neither side can).
    """

    workload: Workload
    verdict: Verdict
    word: str
    base: float | None = None
    head: float | None = None
    samples: tuple[float, ...] = ()  # the head's rounds

    @classmethod
    def unchanged(cls, workload: Workload) -> Self:
        """Makes the row of a benchmark that both sides run by the same sources."""
        same = Verdict("ok", None, None, None, 0, "the same sources on both sides, not timed", 0)
        return cls(workload, same, "unchanged")

    @property
    def label(self) -> str:
        """Gives the word, as it is shown."""
        return "ok, unchanged" if self.word == "unchanged" else self.word

    @property
    def short(self) -> str:
        """"ok 1.003x"."""
        return f"{self.label} {self.verdict.ratio:.3f}x" if self.verdict.ratio else self.label

    @property
    def sentence(self) -> str:
        """"regressed: 7.2 % slower [6.1, 8.4], 12 pairs"."""
        return f"{self.label}: {self.verdict.why}"
