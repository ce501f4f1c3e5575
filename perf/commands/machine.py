"""The commands that examine the machine: is it fit, how repeatable are its times, what can it tell apart."""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from perf.commands.parser import Commands, command
from perf.system.devices import HELP, device
from perf.system.exit_codes import FAILED, OK

if TYPE_CHECKING:
    import torch

WATCHED = 0.5  # seconds, and as long before them for a GPU to reach its clocks
QUEUE = 8  # products that a GPU is kept busy with
PROCESSES = 10
RECORD = Path(".perf/selftest.json")
SCHEMA = 1
SECONDS = {"cpu": 900.0, "cuda": 600.0}  # of a self-test
QUICK = {"cpu": 150.0, "cuda": 100.0}


def add(commands: Commands) -> None:
    one = command(commands, "machine", machine, machine.__doc__)
    one.add_argument("device", metavar="DEVICE", nargs="?", help=HELP)
    one = command(commands, "repeatability", repeatability, repeatability.__doc__)
    one.add_argument("--processes", type=int, default=PROCESSES)
    one.add_argument("--device", help=HELP)
    one = command(commands, "selftest", selftest, selftest.__doc__)
    one.add_argument("--device", help=HELP)
    one.add_argument("--seconds", type=float, help="for all of it")
    one.add_argument("--quick", action="store_true", help="one variant, fewer faults")
    one.add_argument("--record", type=Path, default=RECORD, help="file of JSON (default: %(default)s)")


def machine(options: argparse.Namespace) -> int:
    """Prints the machine's fingerprint that evidence carries, and whether the machine is fit to measure.

    Exit codes: 0 fit; 1 unfit, for a reason that it prints; 2 refused, in one line.
    """
    text, why = examine(device(options.device))
    print(text)
    if why:
        print(f"unfit: {why}", file=sys.stderr)
    return FAILED if why else OK


def examine(device: torch.device) -> tuple[str, str | None]:
    """Returns the fingerprint and the state as JSON, and why the machine is unfit, in one line (None: it is fit).

    A GPU is watched while it works, since an idle one shows neither its clocks nor its throttling.
    """
    from perf.measure.fitness import Watch, summary, unfit
    from perf.measure.machine import clocks, fingerprint, identity, why_unlocked

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


def _for_seconds(work: Callable[[], None], between: Callable[[], None]) -> None:
    end = time.monotonic() + WATCHED
    while time.monotonic() < end:
        work()
        between()


def _multiply(device: torch.device) -> Callable[[], None]:
    """Keeps some matrix products queued."""
    import torch

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


def repeatability(options: argparse.Namespace) -> int:
    """Shows how far medians of fresh processes spread, and how far the clock lies from the profiler.

    The same calls run in fresh processes, one after the other. Shown is how far their medians spread, by the project's
    clock and by a stopwatch around a synchronised call; and how far the clock lies from what the profiler says the
    kernels took. On a GPU every round is followed by a wait of a fixed number of SM cycles, whose duration tells the
    clock rate it ran at: time x rate, in cycles, takes a drifting clock out of a call that the SMs bind (a matrix
    product), and only of such a one.
    """
    from perf.bench.repeatability import processes, table

    if options.processes < 2:
        raise ValueError(f"--processes {options.processes}: a spread needs at least 2")
    print(table(processes(options.processes, device(options.device))))
    return OK


def selftest(options: argparse.Namespace) -> int:
    """Shows what this machine can tell apart, and what it is wrong about.

    It compares the working tree with itself (A/A) over the quick grid: every alarm is a false one. Then it compares it
    with itself with a fault put into the head (perf/compare/inject.py), in a few real variants: what was caught, in how
    many seconds.

    Exit codes: 0 no false alarm, and every fault of at least the size that matters was caught; 1 otherwise; 2 refused,
    in one line; 10 the machine was unfit and nothing was decided.
    """
    from perf.compare import pairs
    from perf.compare import selftest as test
    from perf.measure.machine import fingerprint, identity, revision

    place = device(options.device)
    seconds = options.seconds or (QUICK if options.quick else SECONDS)[place.type]
    workloads = test.benchmarks(place, quick=options.quick)
    print(f"A/A and injected faults on {place}, {seconds:.0f} s at most", flush=True)
    faults = test.QUICK_FAULTS if options.quick else test.FAULTS
    trials = []
    compare, kind = test.itself(place, len(workloads)), pairs.kind(place)
    for trial in test.trials_of(workloads, faults, compare, seconds, kind):
        trials.append(trial)
        print(test.shown(trial), flush=True)
    summary = test.summary(trials)
    print("\n".join(test.sentences(summary)))
    options.record.parent.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "time": time.time(), "device": str(place), "machine": fingerprint(),
              "id": identity(), "revision": revision(), **summary,
              "trials": [trial.to_json() for trial in trials]}
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return test.exit_code(trials)
