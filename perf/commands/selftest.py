"""Shows what this machine can tell apart, and what it is wrong about.

It compares the working tree with itself (A/A) over the quick grid: every alarm is a false one. Then it compares it with
itself with a fault put into the head (perf/compare/inject.py), in a few real variants: what was caught, in how many
seconds.

Exit codes: 0 no false alarm, and every fault of at least the size that matters was caught; 1 otherwise; 2 refused, in
one line; 10 the machine was unfit and nothing was decided.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from perf.system.devices import HELP, device

RECORD = Path(".perf/selftest.json")
SCHEMA = 1
SECONDS = {"cpu": 900.0, "cuda": 600.0}
QUICK = {"cpu": 150.0, "cuda": 100.0}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help=HELP)
    parser.add_argument("--seconds", type=float, help="for all of it")
    parser.add_argument("--quick", action="store_true", help="one variant, fewer faults")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of JSON (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Prints a line a trial as it ends, then what they say together."""
    from perf.compare import live, selftest
    from perf.measure import machine

    place = device(options.device)
    seconds = options.seconds or (QUICK if options.quick else SECONDS)[place.type]
    workloads = selftest.benchmarks(place, quick=options.quick)
    print(f"A/A and injected faults on {place}, {seconds:.0f} s at most", flush=True)
    faults = selftest.QUICK_FAULTS if options.quick else selftest.FAULTS
    trials = []
    compare, kind = selftest.itself(place, len(workloads)), live.kind(place)
    for trial in selftest.trials_of(workloads, faults, compare, seconds, kind):
        trials.append(trial)
        print(selftest.shown(trial), flush=True)
    summary = selftest.summary(trials)
    print("\n".join(selftest.sentences(summary)))
    options.record.parent.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "time": time.time(), "device": str(place), "machine": machine.fingerprint(),
              "id": machine.identity(), "revision": machine.revision(), **summary,
              "trials": [trial.to_json() for trial in trials]}
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return selftest.exit_code(trials)
