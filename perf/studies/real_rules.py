"""Public rules, asked whether the head of one real comparison is slower, each with what it would see there.

| rule | asked by | sees |
|---|---|---|
| asv continuous, factor 1.1 (its default) and 1.03 | its own code | two launches a side, ten samples of each |
| pytest-benchmark `--benchmark-compare-fail` | its own code | one launch a side: its rounds' mean, or minimum |
| nvbench-compare-robust, defaults | its own code | one launch a side: minimum, quartiles and the GPU's clock |
| tritonbench A/B | as written | one launch a side: at most a hundred rounds |
| Bencher: percentage, t-test, z-score | as written | the median of each base's launch so far; that of the last head |
| Apache Otava, defaults | its own code | the median of each base's launch so far, then those of the head |

Packages: asv 0.6.6, pytest-benchmark 5.3.1, cuda-bench 0.3.0 (nvbench's scripts), apache-otava 0.8.0; the last two need
`pip install --no-deps`. On a CPU, where no clock is measured, nvbench's rule is told that both sides had the same.

tritonbench's is in tritonbench/components/do_bench/latency_analysis.py (meta-pytorch/tritonbench, 847383d): at least 30
samples a side, at 5 % Welch's t-test where Shapiro-Wilk finds both normal, Mann-Whitney's otherwise; no index has the
package. Bencher's are in lib/bencher_boundary (bencherdev/bencher, 8d75325), which is Rust: the new median is above the
old ones' mean by 5 %, or above the 99th percentile of a prediction (t) or of a normal distribution (z). None asks how
fit the machine was.
"""
from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LAUNCHES = 2  # of a side, for asv
ENOUGH = 30  # samples of a side, for tritonbench
ALPHA, PERCENTILE, PERCENT = 0.05, 0.99, 5.0
NEAR = 2  # launches that a change point may be off by

Times = Mapping[str, Any]  # of one side in a pair (perf/studies/real_pairs.py)


@dataclass(frozen=True)
class Comparison:
    """Holds the sides of each pair in order, and the median seconds of the base's launches in earlier comparisons of
    the same benchmark."""

    base: Sequence[Times]
    head: Sequence[Times]
    earlier: Sequence[float] = ()

    @property
    def history(self) -> list[float]:
        """Lists the median of each launch of the base so far."""
        return [*self.earlier, *(times["median"] for times in self.base)]


def asv(factor: float, seen: Comparison) -> bool:
    import numpy as np

    from perf.studies.simulation.public import asv_worse

    base, head = (np.log([[x for times in side[:LAUNCHES] for x in times["parts"]]]) for side in (seen.base, seen.head))
    return bool(asv_worse(np.median(head, axis=1), np.median(base, axis=1), head, base, factor)[0])


def pytest_benchmark(field: str, seen: Comparison) -> bool:
    from pytest_benchmark.utils import PercentageRegressionCheck

    return bool(PercentageRegressionCheck(field, PERCENT).fails(seen.head[0], seen.base[0]))


def nvbench(seen: Comparison) -> bool:
    """Raises ModuleNotFoundError as the others that have packages."""
    from cuda.bench.scripts import nvbench_compare_robust as robust

    robust.load_nvbench_compare_tooling(load_color=False)
    base, head = (robust.GpuTimingData(
        minimum=one["min"], maximum=None, mean=one["mean"], stdev=None, stdev_relative=None, first_quartile=one["q1"],
        median=one["median"], third_quartile=one["q3"], interquartile_range=one["q3"] - one["q1"],
        interquartile_range_relative=None, sm_clock_rate_mean=one.get("mhz", 1.0))
        for one in (seen.base[0], seen.head[0]))
    return robust.compare_gpu_timings(base, head).status == robust.ComparisonStatus.SLOW


def tritonbench(seen: Comparison) -> bool | None:
    """Says nothing where there are too few samples, as where the first launch failed, whose rounds are kept."""
    from scipy import stats

    base, head = seen.base[0].get("rounds", ()), seen.head[0].get("rounds", ())
    if min(len(base), len(head)) < ENOUGH:
        return None
    normal = all(stats.shapiro(side).pvalue > ALPHA for side in (base, head))
    test = stats.ttest_ind(head, base, equal_var=False) if normal else stats.mannwhitneyu(head, base)
    return bool(test.pvalue < ALPHA and statistics.fmean(head) > statistics.fmean(base))


def bencher_percentage(seen: Comparison) -> bool:
    return seen.head[-1]["median"] > statistics.fmean(seen.history) * (1 + PERCENT / 100)


def bencher_t_test(seen: Comparison) -> bool:
    from scipy import stats

    n = len(seen.history)
    return _beyond(seen, float(stats.t.ppf(PERCENTILE, n - 1)) * math.sqrt(1 + 1 / n))


def bencher_z_score(seen: Comparison) -> bool:
    return _beyond(seen, statistics.NormalDist().inv_cdf(PERCENTILE))


def _beyond(seen: Comparison, spreads: float) -> bool:
    spread = statistics.stdev(seen.history)
    return spread > 0 and seen.head[-1]["median"] > statistics.fmean(seen.history) + spreads * spread


def otava(seen: Comparison) -> bool:
    from otava.analysis import compute_change_points

    series = [*seen.history, *(times["median"] for times in seen.head)]
    points, _ = compute_change_points(series)
    return any(one.stats.mean_2 > one.stats.mean_1 and abs(one.index - len(seen.history)) <= NEAR for one in points)


RULES: dict[str, Callable[[Comparison], bool | None]] = {
    "asv continuous 1.1": lambda seen: asv(1.1, seen), "asv continuous 1.03": lambda seen: asv(1.03, seen),
    "pytest-benchmark mean:5%": lambda seen: pytest_benchmark("mean", seen),
    "pytest-benchmark min:5%": lambda seen: pytest_benchmark("min", seen),
    "nvbench-compare-robust": nvbench, "tritonbench A/B": tritonbench,
    "Bencher percentage 5%": bencher_percentage, "Bencher t-test 0.99": bencher_t_test,
    "Bencher z-score 0.99": bencher_z_score, "Apache Otava": otava}
