"""A record of launch pairs is replayed by the shipped rule and by two public ones; the record is made up."""
from __future__ import annotations

import math
import random

from perf.studies.real_pairs import replayed


def test_rules_are_scored_on_the_same_pairs() -> None:
    rng = random.Random(7)
    lines = [{"kind": "NVIDIA H200"}] + [
        {"series": series, "benchmark": f"b{i}", "planted": planted,
         "ratios": [math.log1p(planted) + rng.gauss(0, 0.001) for _ in range(6)]}
        for series, planted in enumerate((0.0, 0.02, 0.07, 0.2)) for i in range(3)]
    alone = "       by the first pair alone: asv compare 1.1 {}, pytest-benchmark median:5% {}"
    assert list(replayed(lines)) == [
        "NVIDIA H200: 12 comparisons",
        "   0%  ok 3; pairs 2.0", alone.format(0, 0), "   2%  regressed 3; pairs 2.0", alone.format(0, 0),
        "   7%  regressed 3; pairs 2.0", alone.format(0, 3), "  20%  regressed 3; pairs 2.0", alone.format(3, 3)]
