"""Faults put into a call on purpose, to see whether they are caught: `wrap(call, "slow:5%")`.

| spec | what becomes of the call |
|---|---|
| slow:5% | takes 5 % longer; counts no more launches, as a kernel that got slower doesn't |
| host:30% | takes 30 % more of the host's time: Python that launches nothing |
| clone | clones what it returns: a needless copy, one more launch |
| unfused | doubles what it returns and halves it again: two elementwise kernels that were part of another |
| recompile | compiles a small graph anew each time |
| sync | waits for the result: the host reads a value back |
"""
from __future__ import annotations

import functools
import itertools
import json
import os
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from perf.compare.side import INJECT
from perf.measure.counters import tensors

TIMED = ("slow", "host")
KINDS = (*TIMED, "clone", "unfused", "recompile", "sync")
CYCLES = 1_000_000  # to learn how long a cycle takes; 0.5 ms
CLOSE = 0.1  # of the wanted seconds: as exact as an injected slowdown has to be
TRIES = 5

Call = Callable[[], Any]


def wrap(call: Call, spec: str) -> Call:
    """Gives the call with the fault `spec` in it. Makes the call, to learn its device and time.

    Raises ValueError, in one line, for an unknown spec, and for a slowdown too small to be put in by a launch.
    """
    kind, share = parse(spec)
    if kind in TIMED:
        return _slower(call, share) if kind == "slow" else _spinning(call, share)
    if kind in ("recompile", "sync"):
        return _recompiling(call) if kind == "recompile" else _waiting(call)
    change: Callable[[torch.Tensor], torch.Tensor] = torch.clone if kind == "clone" else lambda x: (x * 2) * 0.5
    return lambda: _mapped(call(), change)


def injected(name: str, call: Call) -> Call:
    """Gives a benchmark's call the fault that the environment names."""
    spec = named(os.environ.get(INJECT, ""), name)
    return wrap(call, spec) if spec else call


def named(faults: str, name: str) -> str | None:
    """Picks a benchmark's fault: `faults` is one for all, or JSON, {"a benchmark's id": "slow:5%"}."""
    return json.loads(faults).get(name) if faults.startswith("{") else faults


def parse(spec: str) -> tuple[str, float]:
    """Reads the kind of fault, and by which share the call is made slower: ("slow", 0.05). Raises ValueError."""
    kind, _, amount = spec.strip().partition(":")
    if kind not in KINDS or (kind not in TIMED and amount):
        raise ValueError(f"unknown fault {spec!r}; choose from slow:5%, host:30%, {', '.join(KINDS[2:])}")
    if kind not in TIMED:
        return kind, 0.0
    number, percent = amount.strip().removesuffix("%"), amount.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 10:
        raise ValueError(f"fault {spec!r}: {amount!r} is no share of a call's time; give one such as slow:5%")
    return kind, share


def _slower(call: Call, share: float) -> Call:
    """Makes the call take longer. Under a profiler it adds nothing, so that counters see the call as it was."""
    sample = next(tensors(call()), None)
    if sample is None or not sample.is_cuda:
        return _spinning(call, share)
    cycles = calibrate(functools.partial(_seconds, call, sample.device), share, _cycle(sample.device))

    def slower() -> Any:
        result = call()
        if not torch.autograd._profiler_enabled():
            torch.cuda._sleep(cycles)  # torch's own way to keep a GPU busy: a kernel in the call's stream
        return result

    return slower


def _spinning(call: Call, share: float) -> Call:
    """Follows each call on the CPU by a busy loop of its own time's share. Both are CPU time: what others take
    meanwhile is not the call's."""
    def slower() -> Any:
        start = time.process_time()
        result = call()
        end = time.process_time()
        if not torch.autograd._profiler_enabled():
            until = end + share * (end - start)
            while time.process_time() < until:
                pass
        return result

    return slower


def _seconds(call: Call, device: torch.device, cycles: int) -> float:
    from perf.measure.clocks import clock
    from perf.measure.sampling import sample

    def slept() -> Any:
        result = call()
        if cycles:
            torch.cuda._sleep(cycles)
        return result

    made = clock(device)
    return sample(made, made.prepare(slept), precision=0.001).median


@functools.cache
def _cycle(device: torch.device) -> float:
    return cycle(functools.partial(_seconds, lambda: None, device))


def cycle(seconds: Callable[[int], float]) -> float:
    """Measures the seconds of a cycle, of which `seconds` takes many. Raises ValueError where they take none."""
    if (rate := (seconds(2 * CYCLES) - seconds(CYCLES)) / CYCLES) <= 0:
        raise ValueError("fault slow: the time doesn't follow the cycles that are added to a call")
    return rate


def calibrate(seconds: Callable[[int], float], share: float, rate: float) -> int:
    """Finds the cycles, each of `rate` seconds, for which `seconds(cycles)` is `1 + share` times `seconds(0)`, within
    `CLOSE` of what is added.

    The launch of the busy kernel takes time of its own, so that the first guess is corrected by what it does. The call
    alone is timed anew for each further guess: it drifts by more than a small share (6 of 44 were refused on an H200).
    Raises ValueError where that launch alone takes longer than wanted.
    """
    alone = seconds(0)
    cycles = max(1, round(share * alone / rate))
    for _ in range(TRIES):
        wanted, added = share * alone, seconds(cycles) - alone
        if abs(added - wanted) <= CLOSE * wanted:
            return cycles
        if cycles == 1 and added > wanted:
            break
        cycles = max(1, cycles + round((wanted - added) / rate))
        alone = seconds(0)
    raise ValueError(f"fault slow:{share:.3g}: {wanted * 1e6:.2g} us more can't be added to a call of "
                     f"{alone * 1e6:.3g} us here, a launch takes {added * 1e6:.2g} us; inject a larger share")


def _waiting(call: Call) -> Call:
    def waiting() -> Any:
        result = call()
        if (x := next(tensors(result), None)) is not None:
            x.detach().reshape(-1)[0].item()
        return result

    return waiting


def _recompiling(call: Call) -> Call:
    """Compiles code of another name before each call: torch.compile gives up on code that it has compiled too often."""
    like = next(tensors(call()), torch.zeros(1))
    one, count = torch.zeros(1, device=like.device), itertools.count()

    def recompiling() -> Any:
        code = _small.__code__.replace(co_name=f"small_{next(count)}")
        torch.compile(types.FunctionType(code, globals()), backend="eager")(one)
        return call()

    return recompiling


def _small(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _mapped(result: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Changes the floating-point tensors of `result`."""
    if isinstance(result, torch.Tensor):
        return change(result) if result.is_floating_point() else result
    if isinstance(result, Mapping):
        return {name: _mapped(value, change) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return [_mapped(value, change) for value in result]
    return result
