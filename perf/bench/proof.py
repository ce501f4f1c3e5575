"""The call that is timed is the call that is checked: what it leaves in its last rounds, on inputs it has not seen.

    spoil the memory of its result -> write new inputs -> call -> copy the result at once -> judge the copy

So what is remembered, skipped, computed elsewhere or computed later is seen: the copy holds what the call had done when
the clock was read. Only what a call does is looked at, not how: a sentence says what was seen.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from perf.bench.contract import Prepared
from perf.measure.clocks import Plan
from perf.measure.counters import tensors
from perf.measure.cuda_graph import Replay
from perf.measure.roofline import BEYOND, Ceilings, least
from perf.workloads.workload import Workload

SHORT = 10e-3  # seconds of a call that may be called a few times more
TRIALS, PAIRS = 2, 3  # of a short call; a longer one is tried once
LOOKS = 3  # before a call is called one that remembers: a busy machine may make one look like it
REMEMBERS = 3.0  # times as fast on values that it has seen
NOTHING = 50e-6  # seconds that caches may make of it
PAUSE = 0.02  # seconds in which what works on in secret may end
AHEAD = 4_000_000  # cycles that keep a GPU's stream busy, so that work outside of it comes too early

Call = Callable[[], Any]


class Caught(Exception):
    """Tells that a call did something other than compute; the message says what, after the call's name."""


def prove(prepared: Prepared, plan: Plan, device: torch.device, like: Sequence[torch.Tensor]) -> None:
    """Raises Caught where the plan's call does not compute its result, each time, from what stands in its inputs.

    `like` are tensors, on no device, of the shapes and dtypes that the call returns.
    """
    short = plan.seconds / plan.iterations < SHORT
    memory = plan.call.result if isinstance(plan.call, Replay) else like
    for _ in range(TRIALS if short else 1):
        other = _copy(_new(prepared, plan.call)) if short else None
        early = _try(prepared, plan.call, device, memory)
        if other is not None and all(torch.equal(x, y) for x, y in zip(tensors(early), tensors(other), strict=True)):
            raise Caught("gave the same result when its inputs were new")
    if short:
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


def _new(prepared: Prepared, call: Call) -> Any:
    prepared.renew()
    return call()


def _try(prepared: Prepared, call: Call, device: torch.device, memory: Any) -> Any:
    """Gives what the call had done when it ended."""
    prepared.trial()  # computes the exact results
    _spoil(memory, device)
    prepared.renew()  # what does not wait for the stream finds these inputs
    _wait(device)
    if device.type == "cuda":
        torch.cuda._sleep(AHEAD)
    judge = prepared.trial()
    expected = [x.clone() for x in judge.read]
    result = call()
    _plain(result)
    early = _copy(result)
    _wait(device)
    reason = _wrong(judge.judge, early)
    if not _same(judge.read, expected):
        raise Caught("changed its inputs")
    if reason is None:
        return early
    time.sleep(PAUSE)
    _wait(device)
    if not _same(tensors(result), tensors(early)):
        raise Caught("went on to change its result after it had ended, in another stream or thread")
    raise Caught(reason)


def _wrong(judge: Callable[[Any], Any], early: Any) -> str | None:
    """Says what is wrong with a result: memory that was not written, else what the rule says."""
    spoilt = max((x.isnan().double().mean().item() for x in tensors(early) if x.is_floating_point()), default=0.0)
    if spoilt:
        return f"left {max(spoilt, 1e-4):.2%} of its result as it was before, when its inputs were new"
    try:
        report = judge(early)
    except ValueError as error:  # of a result of another shape
        return f"gave another result when it was timed: {error}"
    return None if report.ok else f"gave another result when it was timed, of inputs that were new: {report.message}"


def _forgets(prepared: Prepared, call: Call, device: torch.device) -> None:
    """Raises Caught for a call that is faster on values that it has seen, each of a few times that it is looked at."""
    for _ in range(LOOKS):
        new, again = [], []
        for _ in range(PAIRS):
            prepared.renew()
            new.append(_reading(call, device))
            again.append(min(_reading(call, device) for _ in range(2)))
        if REMEMBERS * max(again) + NOTHING >= min(new):
            return
    raise Caught(f"takes {1e6 * min(new):.3g} us or more where its inputs are new and {1e6 * max(again):.3g} us or "
                 "less where they are as before, so it remembers results")


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
    _wait(device)


def _plain(result: Any) -> None:
    if next(tensors(result), None) is None:
        raise Caught(f"returned no tensor but {type(result).__name__}")
    for x in tensors(result):
        if type(x) not in (torch.Tensor, torch.nn.Parameter):
            raise Caught(f"returned a {type(x).__name__}, which may compute when it is read; return a torch.Tensor")


def _copy(result: Any) -> Any:
    """Copies the result as it is now, in the call's own stream."""
    if isinstance(result, torch.Tensor):
        return result.detach().clone()
    if isinstance(result, list | tuple):
        return [None if x is None else _copy(x) for x in result]
    return [_copy(x) for x in tensors(result)]


def _same(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> bool:
    return all(bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(one, other, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
