"""The screen finds the benchmarks that look slower tonight than their history: suspects, to be confirmed by live pairs.
It is pure, on arrays.

What the machine did to everything that night is taken off first: the median movement of a group's frozen control
workloads (perf/bench/controls.py), which no revision changes. What is left is compared with the 30 nights before,
robustly: a median, and a spread by the 10th and 90th percentile, so that one night in ten may be anything.

| suspect | if |
|---|---|
| new | there are fewer than 10 nights to compare with |
| slower | tonight lies 3 spreads above the 30 nights before |
| week | the last 7 nights lie 3 standard errors above the 30 nights before them |
| month | the last 7 nights lie 3 standard errors above the 7 nights of a month ago: a slow creep |
| unclear | tonight can't exclude the smallest change to be found, at 3.2 spreads |
| faster | tonight lies 3 spreads below: then later nights are held against another level |

The first that holds counts; an excess that is small beside the smallest change to be found makes no suspect.

Times are natural logarithms of seconds, so that a difference is a relative change. What was not measured is NaN.
"""
from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BASELINE, WEEK, MONTH = 30, 7, 30  # nights
WINDOW = MONTH + WEEK + 1  # nights that are looked at, tonight's among them
FEWEST = 10  # nights of history
FEWEST_CONTROLS = 4  # of a group, in a night: fewer can't say what the machine did
SIGMAS = 3.0
EXCLUDED = 3.2  # more, because a spread of 30 nights is itself uncertain
SPIKE = 4.0  # spreads of a pair
CREEP = 0.3  # of the smallest change to be found: a smaller excess makes no suspect
TENTHS = 2.5631  # from the 10th to the 90th percentile of a normal distribution, in standard deviations
FINEST = 1e-3  # no spread is believed to be smaller

# numpy warns of a benchmark without any night; it gets NaN, which is what is meant.
_quiet = functools.partial(warnings.catch_warnings, action="ignore", category=RuntimeWarning)


@dataclass(frozen=True)
class Screening:
    """Holds, for each benchmark, tonight's log time over its baseline, the spread of a night, how many nights the
    baseline has, and why it is a suspect ("" if it is none). Arrays are (benchmarks,)."""

    excess: Array
    spread: Array
    nights: NDArray[np.int64]
    suspect: NDArray[np.str_]


def figures(passes: Array, pair: Array) -> Array:
    """Averages (nights, benchmarks, launches) to (nights, benchmarks), without those launches that lie farther above
    the lowest than launches do (`pair`, perf/verdict/learn.py): what hits one launch of a night is not the
    benchmark."""
    with _quiet():
        least = np.nanmin(passes, axis=2, keepdims=True)
        return np.nanmean(np.where(passes - least > SPIKE * pair[:, None], np.nan, passes), axis=2)


def common_mode(controls: Array) -> Array:
    """Tells how far a group's controls lay from where each usually lies: (nights, controls) to (nights,).

    NaN on a night with fewer than 4 of them."""
    with _quiet():
        movement = np.nanmedian(controls - np.nanmedian(controls, axis=0), axis=1)
    return np.where(np.isfinite(controls).sum(axis=1) >= FEWEST_CONTROLS, movement, np.nan)


def without_common_mode(logs: Array, group: NDArray[np.int64], controls: Array,
                        control_group: NDArray[np.int64]) -> Array:
    """Takes the common mode of each benchmark's group off its (nights, benchmarks). `controls` are (nights,
    controls)."""
    rest = logs.copy()
    for one in np.unique(group):
        rest[:, group == one] -= common_mode(controls[:, control_group == one])[:, None]
    return rest


def robust_spread(values: Array) -> Array:
    """Gives the standard deviation along the nights, were the middle 80 % of them normal; NaN where there are none."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    with _quiet():
        percentile = np.percentile if np.isfinite(values).all() else np.nanpercentile
        low, high = percentile(values, (10, 90), axis=0)
    return np.maximum((high - low) / TENTHS, FINEST)


def screen(adjusted: Array, effect: Array | float, *, pair: Array | float = 0.0, launches: NDArray[np.int64] | int = 2,
           due: NDArray[np.bool_] | bool = True) -> Screening:
    """Screens `adjusted` (nights, benchmarks), without the common mode, tonight last; NaN before a benchmark's present
    level or environment began.

    `effect` is the smallest change to be found, 0.05 for 5 %, (benchmarks,) or one for all. Tonight's figure is one of
    `launches`, the others' of two; of more, whose spread is `pair` / sqrt(2), it spreads less. `due`: whose last week
    is looked at tonight.
    """
    change = np.log1p(effect)
    least = CREEP * change
    tonight, before = adjusted[-1], adjusted[-1 - BASELINE:-1]
    nights = np.isfinite(before).sum(axis=0)
    usual = robust_spread(before)
    spread = np.sqrt(np.maximum(usual ** 2 - pair ** 2 * (1 / 4 - 1 / (2 * launches)), usual ** 2 / 4))
    with _quiet():
        excess = tonight - np.nanmedian(before, axis=0)
    week, over_week = _rise(adjusted, adjusted[-WEEK - BASELINE:-WEEK], usual, FEWEST)
    month, over_month = _rise(adjusted, adjusted[-MONTH - WEEK:-MONTH], usual, WEEK - 2)
    suspect = np.select(
        [~np.isfinite(tonight), nights < FEWEST, excess > np.maximum(SIGMAS * spread, least),
         due & over_week & (week > least), due & over_month & (month > least), excess + EXCLUDED * spread > change,
         excess < -np.maximum(SIGMAS * spread, least)],
        ["", "new", "slower", "week", "month", "unclear", "faster"], "")
    return Screening(excess, spread, nights, suspect)


def _rise(adjusted: Array, then: Array, spread: Array, fewest: int) -> tuple[Array, NDArray[np.bool_]]:
    """Gives the rise of the last week over `then`, and whether it is above 3 standard errors and `then` has the fewest
    nights."""
    last = adjusted[-WEEK:]
    with _quiet():
        rise = np.nanmean(last, axis=0) - np.nanmean(then, axis=0)
    known, compared = (np.isfinite(part).sum(axis=0) for part in (last, then))
    error = spread * np.sqrt(1 / np.maximum(known, 1) + 1 / np.maximum(compared, 1))
    return rise, (compared >= fewest) & (known >= WEEK // 2) & (rise > SIGMAS * error)
