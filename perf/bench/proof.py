"""The call that is timed is the call that is checked: what it left in the rounds, and leaves after them, on inputs that
it has not seen.

    write new inputs -> spoil the memory of its result -> call -> copy the result at once -> judge the copy

So what is remembered, skipped, computed elsewhere or computed later is seen: the copy holds what the call had done when
the clock was read. Only what a call does is looked at, not how: a sentence says what was seen.
"""
from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from perf.bench.contract import Prepared, Trial
from perf.measure.clocks import Plan
from perf.measure.counters import tensors
from perf.measure.cuda_graph import Replay
from perf.measure.roofline import BEYOND, Ceilings, least
from perf.workloads.workload import Workload

SHORT, LONG = 10e-3, 50e-3  # seconds of a call that may be tried twice, and of one that may not be called three times
TRIALS = 2  # of a short call
ENOUGH = 3  # pairs of short calls, of which a busy machine may slow one as much as a call that computes
PAIRS = 9  # before a call is called one that remembers: a busy machine may make one look like it
ALIKE, REMEMBERS = 1.5, 3.0  # times as fast on values that it has seen: as fast as may be, and faster than may be
NOTHING = 50e-6  # seconds that caches may make of it
PAUSE, PAUSES = 0.02, 10  # seconds in which what works on in secret may end, and how often
AHEAD = 4_000_000  # cycles that keep a GPU's stream busy, so that work outside of it comes too early

Call = Callable[[], Any]


class Cheat(Exception):
    """Tells that a call did something other than compute; the message says what, after the call's name."""


def prove(prepared: Prepared, plan: Plan, spot: Spot, device: torch.device, like: Sequence[torch.Tensor]) -> None:
    """Raises Cheat where the plan's call does not compute its result, each time, from what stands in its inputs.

    `spot` looked at its rounds; `like` are tensors, on no device, of the shapes and dtypes that the call returns.
    """
    spot.look()
    seconds = plan.seconds / plan.iterations
    trial = prepared.trial()
    memory = plan.call.result if isinstance(plan.call, Replay) else like

    def call() -> Any:
        nonlocal seconds  # fewer than the plan's where others had the core when it was made
        start = time.process_time()
        result = plan.call()
        if device.type == "cpu":
            seconds = min(seconds, time.process_time() - start)
        return result

    right = None
    for number in range(TRIALS):
        for _ in range(number + 1 if seconds < SHORT else 0):  # what computes every second time is caught once
            prepared.renew()
            call()
        if number == 0 or seconds < SHORT:
            right = _try(prepared, trial, call, device, memory, right)
    if reason := spot.strange or (spot.trial_result is not None and _wrong(trial, spot.trial_result, right)):
        raise Cheat(reason)
    if seconds < LONG:
        _forgets(prepared, plan.call, device)


def too_fast(seconds: float, w: Workload, ceilings: Ceilings) -> str | None:
    """Says, in one line, that a call took less than anything could here; None where it did not."""
    if seconds <= 0:
        return "took no time at all between the clock's two readings, so it works elsewhere or not at all"
    limit = least(w, ceilings)
    if limit is None or seconds >= limit.seconds:
        return None
    return (f"took {1e6 * seconds:.3g} us, but its {limit.limit} take {1e6 * limit.seconds:.3g} us at {BEYOND:g} times "
            "the most that any dtype was seen to reach here, so it works elsewhere or not at all")


def _try(prepared: Prepared, trial: Trial, call: Call, device: torch.device, memory: Any,
         right: Any) -> Any:
    """Gives what the call had done when it ended. Raises Cheat if that is wrong."""
    prepared.renew()  # what does not wait for the stream finds these inputs
    _wait(device)
    if device.type == "cuda":
        torch.cuda._sleep(AHEAD)
    trial.write()
    expected = [x.clone() for x in trial.read]
    _spoil(memory, device)
    result = call()
    if reason := strange(result):
        raise Cheat(reason)
    early = copy(result)
    _wait(device)
    reason = _wrong(trial, early, right)
    if not _same(trial.read, expected):
        raise Cheat("changed its inputs")
    if reason is None:
        return early
    for _ in range(PAUSES):
        time.sleep(PAUSE)
        _wait(device)
        if not _same(tensors(result), tensors(early)):
            raise Cheat("went on to change its result after it had ended, in another stream or thread")
    raise Cheat(reason)


def _wrong(trial: Trial, early: Any, right: Any) -> str | None:
    """Says what is wrong with a result, unless it is the same as one that is right: memory that was not written, else
    what the rule says."""
    if right is not None and _same(tensors(early), tensors(right)):
        return None
    spoilt = max((_share_of_nan(x) for x in tensors(early) if x.is_floating_point()), default=0.0)
    if spoilt:
        return f"left {max(spoilt, 1e-4):.2%} of its result NaN, or as it was before, when its inputs were new"
    try:
        report = trial.judge(early)
    except ValueError as error:  # of a result of another shape
        return f"gave another result when it was timed: {error}"
    return None if report.ok else f"gave another result when it was timed, of inputs that were new: {report.message}"


def _share_of_nan(x: torch.Tensor) -> float:
    return x.isnan().double().mean().item() if x.isnan().any() else 0.0


def _forgets(prepared: Prepared, call: Call, device: torch.device) -> None:
    """Raises Cheat for a call that is faster on values that it has seen; one that is as fast is called three times,
    or nine times if it is short."""
    new, again = [], []
    for _ in range(PAIRS):
        prepared.renew()
        new.append(_reading(call, device))
        again.append(min(_reading(call, device) for _ in range(2)))
        first, second = min(new), min(again)  # what else runs here may slow any call, and hastens none
        if first <= ALIKE * second + NOTHING and (len(new) >= ENOUGH or first >= SHORT):
            return
    if first > REMEMBERS * second + NOTHING:
        raise Cheat(f"takes {1e6 * first:.3g} us where its inputs are new and {1e6 * second:.3g} us where they are as "
                    "before, so it remembers results")


def _reading(call: Call, device: torch.device) -> float:
    """Measures seconds of a call: on a CPU those that this process worked, for others may have the core meanwhile."""
    now = time.process_time if device.type == "cpu" else time.perf_counter
    _wait(device)
    start = now()
    call()
    _wait(device)
    return now() - start


def _spoil(memory: Any, device: torch.device) -> None:
    """Fills memory with NaN: that of a graph's result, else some of the same sizes, which the next result may get."""
    with torch.no_grad():
        for x in tensors(memory):
            if x.is_floating_point():
                (torch.empty_like(x, device=device) if x.is_meta else x).fill_(math.nan)


def _same(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) or bool(((x == y) | (x.isnan() & y.isnan())).all())
               for x, y in zip(one, other, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Spot:
    """Stands between a clock and a workload: the clock calls `call`, and `renew` before each round.

    Some rounds have the trial's values, and what such a round left is judged later. Which rounds these are is drawn, so
    that a call which computes where it is checked and not where it is timed is seen. Nothing is called once more, and
    between the clock's two readings nothing is done but to hold the result. `trial_result` is a
    copy of what the last such round returned, None before there is one, and `strange` says what was no plain tensor in
    it.
    """

    def __init__(self, call: Callable[[], Any], renew: Callable[[], None], trial: Trial | None) -> None:
        """Looks at nothing without a `trial`."""
        self._call, self._renew, self._trial = call, renew, trial
        self._left: Any = None
        self._rounds, self._next = 0, 0  # 0: it has not begun
        self._due = False
        self.trial_result: Any = None
        self.strange: str | None = None

    def call(self) -> Any:
        """Makes the call; a graph of it keeps the memory of the one result that was captured."""
        self._left = None  # its memory is free for the next one, as where nobody holds a result
        self._left = self._call()
        return self._left

    def begin(self) -> None:
        """Says that from now on each `renew` stands before a round."""
        self._rounds = 0
        self._next = random.randint(2, 3) if self._trial else 0  # a result of the first, which may be kept, is wrong

    def renew(self) -> None:
        """Writes new values, or the trial's."""
        self.look()
        self._rounds += 1
        if self._trial is None or not self._next or self._rounds < self._next:
            self._renew()
            return
        self._trial.write()
        self._due, self._next = True, self._rounds + random.randint(1, 2 * self._rounds)

    def look(self) -> None:
        """Copies what the round before has left, if that had the trial's values."""
        if self._due:
            self._due = False
            self.strange = self.strange or strange(self._left)
            self.trial_result = None if self.strange else copy(self._left)


def strange(result: Any) -> str | None:
    """Says what is returned where plain tensors should be; None where they are."""
    if next(tensors(result), None) is None:
        return f"returned no tensor but {type(result).__name__}"
    for x in tensors(result):
        if type(x) not in (torch.Tensor, torch.nn.Parameter):
            return f"returned a {type(x).__name__}, which may compute when it is read; return a torch.Tensor"
    return None


def copy(result: Any) -> Any:
    """Copies the result as it is now, in the call's own stream."""
    if isinstance(result, torch.Tensor):
        return result.detach().clone()
    if isinstance(result, list | tuple):
        return [None if x is None else copy(x) for x in result]
    return [copy(x) for x in tensors(result)]
