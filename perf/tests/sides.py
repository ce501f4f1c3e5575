"""Made-up sides and launch pairs, for the tests of verdicts."""
from __future__ import annotations

import math
from dataclasses import replace

from perf.verdict.verdict import Side, Thresholds, Verdict, decide

T = Thresholds()
INDEPENDENT = Thresholds(correlation=0.0)
GPU = {"launches": 4, "memcpys": 0, "memsets": 1, "host_syncs": 0, "operators": 30, "autograd_nodes": 5,
       "compiled_regions": 1, "graph_breaks": 0, "recompiles": 0}
CPU = {"operators": 12, "autograd_nodes": 0, "compiled_regions": 0, "graph_breaks": 0, "recompiles": 0}
SIDE = Side(GPU, 1e-3, 10_000_000, kernels={"flash_fwd": 2, "gemm": 2})
ON_CPU = Side(CPU, 1e-6, 10_000_000, kernels={"aten::bmm": 2, "aten::view": 10})


def around(change: float, spread: float = 0.005, pairs: int = 12) -> list[float]:
    """Returns log ratios of exactly this middle: `change` is 0.05 for 5 % slower."""
    half = [spread * (0.5 + i / pairs) for i in range(pairs // 2)]
    odd = [0.0] * (pairs % 2)
    return [math.log1p(change) + x for x in (*half, *odd, *(-x for x in half))]


def with_counter(side: Side = SIDE, /, **counters: int) -> Side:
    return replace(side, counters={**side.counters, **counters})


def span(found: Verdict) -> tuple[float, float, float]:
    """Returns low, ratio and high of what was timed."""
    assert found.low is not None
    assert found.ratio is not None
    assert found.high is not None
    return found.low, found.ratio, found.high


def decided(head: Side, pairs: list[float] | None = None, base: Side = SIDE, t: Thresholds = T) -> Verdict:
    return decide(around(0) if pairs is None else pairs, base, head, t)
