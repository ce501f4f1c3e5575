"""A benchmark of a comparison: the verdict on it, and the times behind it. Here verdicts are counted, ratios averaged,
in one way for terminal, alerts and site. It needs no torch."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from perf.verdict.causes import HOST
from perf.verdict.verdict import Verdict
from perf.verdict.words import many
from perf.workloads.workload import Workload

if TYPE_CHECKING:
    from perf.compare.record import Finding

# Of rows, in the order in which they are counted.
WORDS = ("wrong", "regressed", "improved", "ok", "unchanged", "inconclusive", "invalid", "missing", "new", "skipped")
# All words, the one that wants a reader's eye first in front; those that raise an alarm.
PRESSING = ("wrong", "regressed", "invalid", "missing", "inconclusive", "improved", "new", "ok", "unchanged", "skipped")
ALARMS = ("wrong", "regressed")
SAME_SOURCES = "the same sources on both sides, not timed"
SAME_KERNELS = "no function that changed runs, and the compiler wrote the same, not timed"


@dataclass(frozen=True)
class Row:
    """Is the verdict on one benchmark; `base` and `head` are seconds of one call, None where nothing was timed.

    `word` is the verdict's, or "unchanged" (ok without timing), or "skipped" (neither side can).
    """

    workload: Workload
    verdict: Verdict
    word: str
    base: float | None = None
    head: float | None = None
    samples: tuple[float, ...] = ()  # the head's rounds

    @classmethod
    def unchanged(cls, workload: Workload, why: str = SAME_SOURCES) -> Self:
        """Makes the row of a benchmark that both sides run by the same sources, or by the same kernels."""
        return cls(workload, Verdict("ok", None, None, None, 0, why, 0), "unchanged")

    @property
    def label(self) -> str:
        """Gives the word, as it is shown: "regressed (host)" where Python got slower and not what it launches."""
        if self.word == "regressed" and self.verdict.cause == HOST:
            return "regressed (host)"
        same = "ok, the same kernels" if self.verdict.why == SAME_KERNELS else "ok, unchanged"
        return same if self.word == "unchanged" else self.word

    @property
    def short(self) -> str:
        """Writes "ok 1.003x"."""
        return f"{self.label} {self.verdict.ratio:.3f}x" if self.verdict.ratio else self.label

    @property
    def sentence(self) -> str:
        """Writes "regressed: 7.2 % slower [6.1, 8.4], 12 pairs"."""
        return f"{self.label}: {self.verdict.why}"


def counts(words: Iterable[str]) -> str:
    """Writes "12 benchmarks: 1 regressed, 11 unchanged" for a word a benchmark."""
    number = Counter(words)
    labels = ((number[word], "ok, unchanged" if word == "unchanged" else word) for word in WORDS)
    text = ", ".join(f"{count} {word}" for count, word in labels if count)
    return f"{many(number.total(), 'benchmark')}: {text or 'none compared'}"


def worst_words(findings: Iterable[Finding]) -> list[str]:
    """Gives the most pressing word of each benchmark's figures."""
    worst: dict[str, str] = {}
    for f in findings:
        worst[f.benchmark] = min(f.word, worst.get(f.benchmark, f.word), key=PRESSING.index)
    return list(worst.values())


def mean(ratios: Sequence[float]) -> str:
    """Writes "1.012x the base's time (geometric mean), 0.981 to 1.072, 12 benchmarks"."""
    middle = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    return (f"{middle:.3f}x the base's time (geometric mean), {min(ratios):.3f} to {max(ratios):.3f}, "
            f"{many(len(ratios), 'benchmark')}")
