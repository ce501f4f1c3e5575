"""Times calls side by side in rounds of random order: what drifts meets all alike, and is taken for none of them.

In each round every call is timed once. Two are compared round by round (`Ratio.of`). A table timed row after row takes
a machine that warms up, or a neighbour that comes and goes, for a difference.
"""
from __future__ import annotations

import functools
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from perf.measure.clocks import Clock, Plan, clock
from perf.measure.memory import peak_bytes
from perf.measure.sampling import FEWEST, one_round
from perf.studies.calls import PRECISION, bounded
from perf.studies.measuring import Study, reading
from perf.studies.ratio import Ratio

Call = Callable[[], Any]
Found = dict[str, list[float]]  # seconds by name, round by round
MOST = 200  # rounds
TURNS, TURNING = 30, 2.0  # of two calls in turns: the most, and the seconds of them
LONGEST = 300.0  # seconds of a first call, compilation included


def orders(names: Iterable[str], seed: int = 0) -> Iterator[list[str]]:
    """Yields all names in a random order, then in the reverse of it, without end: of two each is first as often."""
    shuffle, all_names = random.Random(seed), list(names)
    while True:
        order = shuffle.sample(all_names, len(all_names))
        yield order
        yield order[::-1]


def rounds(timed: Mapping[str, Callable[[], float]], *, seconds: float, most: int = MOST, seed: int = 0,
           known: Callable[[Found], bool] = lambda seconds_by_name: False) -> Found:
    """Collects what each call says that it took, until that is `known`, `seconds` are spent or there are `most` rounds,
    but in `FEWEST` at least."""
    seconds_by_name: Found = {name: [] for name in timed}
    end = time.monotonic() + seconds
    for count, names in enumerate(orders(timed, seed)):
        if count >= FEWEST and (count >= most or time.monotonic() > end or known(seconds_by_name)):
            break
        for name in names:
            seconds_by_name[name].append(timed[name]())
    return seconds_by_name


def able(study: Study, calls: Mapping[str, Call], about: str) -> dict[str, Call]:
    """Keeps the calls that ran once; what fails or does not fit is a line, and gives its memory back."""
    calls_that_ran = {}
    for name, call in calls.items():
        with study.part(f"{name}, {about}"), bounded(LONGEST):
            study.in_time()
            call()
            calls_that_ran[name] = call
        if name not in calls_that_ran:
            gc.collect()
            if study.device.type == "cuda":
                torch.cuda.empty_cache()
    return calls_that_ran


def interleaved(calls: Mapping[str, Call], device: torch.device, *, seconds: float, most: int = MOST,
                seed: int = 0) -> Found:
    """Times calls by a stopwatch, as a user's loop sees them; a first round, in which libraries load and allocate, is
    not counted."""
    timed = {name: functools.partial(reading, call, device) for name, call in calls.items()}
    for read in timed.values():
        read()
    return rounds(timed, seconds=seconds, most=most, seed=seed)


def in_turns(base: Call, new: Call, device: torch.device, limit: float) -> Ratio:
    """Times two calls by the harness's clock, until their ratio is known to `PRECISION`: a few percent that a busy
    machine would hide. Raises TimeoutError past `limit` seconds."""
    def ratio(times: Found) -> Ratio:
        return Ratio.of(times["new"], times["base"])

    ticking = clock(device)
    with bounded(limit):
        timed = {name: functools.partial(_seconds, ticking, ticking.prepare(call))
                 for name, call in (("base", base), ("new", new))}
        return ratio(rounds(timed, seconds=TURNING, most=TURNS,
                            known=lambda found: ratio(found).interval <= PRECISION))


def _seconds(ticking: Clock, plan: Plan) -> float:
    """Times one call in one round."""
    start, stop = one_round(ticking, plan)
    return (stop - start) / plan.iterations


def side_by_side(study: Study, calls: Mapping[str, Call], seconds: float) -> dict[str, dict[str, Any]]:
    """Times calls in rounds, for `seconds` or what the study has left of its own; gives by name the milliseconds, the
    change from the first one's, and the peak of a call."""
    times = interleaved(calls, study.device, seconds=min(seconds, study.left))
    base = next(iter(times), "")
    figures: dict[str, dict[str, Any]] = {}
    for name, call in calls.items():
        ratio = Ratio.of(times[name], times[base])
        figures[name] = {"ms": 1e3 * statistics.median(times[name]), "time's change": None if name == base else
                         str(ratio), "ratio": (ratio.median, ratio.interval), "rounds": ratio.rounds,
                         "peak MB": peak_bytes(call, study.device) / 1e6}
    return figures
