"""Describes the machine in words, and says whether it is fit to measure on at this moment."""
from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from perf.measure.fitness import Watch, summary, unfit
from perf.measure.machine import LOCKED, fingerprint, identity

FEWEST = 20  # readings that must be the same for a clock to count as held
STEP = 15  # MHz, of NVIDIA's clocks: a lock is rounded to one
QUEUE = 8  # products that a GPU is kept busy with
SECONDS = 0.5  # of watching, and as long before it for a GPU to reach its clocks


def report(device: torch.device) -> tuple[str, str | None]:
    """Returns the fingerprint and the state as JSON, and why the machine is unfit, in one line (None: it is fit).

    A GPU is watched while it works, since an idle one shows neither its clocks nor its throttling.
    """
    watch = Watch(device)
    work = _multiply(device) if device.type == "cuda" else lambda: time.sleep(0.01)
    _for_seconds(work, lambda: None)
    watch.begin()
    _for_seconds(work, watch.sample)
    states = watch.end()
    facts, state = fingerprint(), summary(states)
    why = unfit(states) or why_unlocked(facts, state)
    record = {"id": identity(), **facts, "clocks": clocks(facts, state), "state": state, "unfit": why}
    return json.dumps(record, indent=2), why


def clocks(machine: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Says whether the GPU's clocks are locked, as far as NVML tells; None where they are not read."""
    if machine.get("clocks_locked_mhz"):
        return f"locked at {machine['clocks_locked_mhz']} MHz"
    if "sm_mhz" not in state:
        return None
    steady = state.get("readings", 0) >= FEWEST and not state.get("throttle")  # few readings are alike by chance
    steady_below = steady and state["sm_mhz_min"] == state["sm_mhz_max"] < state.get("sm_mhz_limit", 0)
    return (f"held at {state['sm_mhz']:.0f} of {state['sm_mhz_limit']} MHz, as `nvidia-smi -lgc` does, of which "
            "NVML does not tell" if steady_below else "not locked, as far as NVML tells")


def why_unlocked(machine: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Says why the clock that the user declares locked is not; None where nothing speaks against it."""
    locked, clock = machine.get("clocks_locked_mhz"), state.get("sm_mhz_max")
    if not locked or clock is None or clock <= locked + STEP:
        return None
    return (f"the GPU ran at {clock:.0f} MHz and is said to be locked at {locked}: lock it (nvidia-smi -lgc {locked}), "
            f"or unset {LOCKED}")


def _for_seconds(work: Callable[[], None], between: Callable[[], None]) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        work()
        between()


def _multiply(device: torch.device) -> Callable[[], None]:
    """Keeps some matrix products queued."""
    x_NN = torch.randn(4096, 4096, dtype=torch.float16, device=device)
    events: deque[torch.cuda.Event] = deque()

    def work() -> None:
        torch.mm(x_NN, x_NN)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        events.append(event)
        if len(events) > QUEUE:
            events.popleft().synchronize()

    return work
