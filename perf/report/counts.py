"""Counts verdicts and takes the mean of ratios, in one way for terminal, alerts and site. Needs no torch."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from perf.compare.record import Finding
from perf.compare.row import WORDS
from perf.verdict.words import many

# All words, the one that wants a reader's eye first in front; those that raise an alarm.
PRESSING = ("wrong", "regressed", "invalid", "missing", "inconclusive", "improved", "new", "ok", "unchanged", "skipped")
ALARMS = ("wrong", "regressed")


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
