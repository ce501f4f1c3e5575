"""Launch pairs of the working tree and itself, with more time planted in some: `python -m perf.studies.real_pairs`.

    python -m perf.studies.real_pairs record FILE.jsonl --device cuda --seconds 240   # A/A, and 1 to 20 % more time
    python -m perf.studies.real_pairs replay [FILE...] --plot docs/rates.png > docs/rates.md   # what each rule says
    python -m perf.studies.real_pairs seconds FILE.jsonl --device cuda                # what a pair costs

The first line of FILE names the machine. Every other is one comparison: a benchmark, what was planted (0.02 is 2 % more
time in each call of the head, which no counter shows), and its pairs in order; those of the same series shared their
launches. Every pair is two fresh processes, as `--perf-against` takes them. It holds the log ratio, why the machine was
unfit if it was, the log ratio of the host's seconds where a user waits for launching, and of each side what public
rules look at: the seconds of one call in numbers, a GPU's clock, the means of ten equal parts of the rounds, and in the
first pair a hundred rounds themselves. Who asks the rules: perf/studies/real_rates.py.
"""
from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perf.compare.nursery import Nursery
from perf.compare.pair import Pair
from perf.compare.pairs import kind
from perf.compare.pairs import nursery as nursery_of
from perf.compare.process import Died, variables
from perf.compare.selftest import benchmarks, injected
from perf.compare.side import ROOT, Side
from perf.measure import machine
from perf.studies import real_rates
from perf.system.devices import device as device_of
from perf.workloads.workload import Workload

PLANTED = (0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.03, 0.05, 0.10, 0.20)  # each of ten benchmarks in turn gets one, by lot
PAIRS = 4  # of a benchmark
PARTS, ROUNDS = 10, 100  # of a side in one pair: means, and seconds as they are


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.studies.real_pairs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "replay", "seconds"))
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="to replay: default: those of perf/records")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=240.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each benchmark (default: %(default)s)")
    parser.add_argument("--grid", default="quick", help="whose benchmarks are taken (default: %(default)s)")
    parser.add_argument("--bare", action="store_true", help="attention alone, no models")
    parser.add_argument("--rows", type=int, help="benchmarks of a series, in turn (default: all)")
    parser.add_argument("--variants", help="by comma (default: those of the grid)")
    parser.add_argument("--label", default="", help="what else ran, for the page's heading: 'quiet cores', say")
    parser.add_argument("--plot", type=Path, help="file that the plot of a replay is written to, PNG or SVG")
    given = parser.parse_args(arguments)
    if given.what == "replay":
        kinds = real_rates.rates(given.files or real_rates.RECORDS)
        print(real_rates.page(kinds), end="")
        if given.plot:
            real_rates.plot(kinds, given.plot)
        return
    if len(given.files) != 1:
        parser.error(f"{given.what} writes one file; name it")
    device = device_of(given.device)
    chosen = [w for w in benchmarks(device, quick=False, name=given.grid)
              if (w.bare or not given.bare) and (not given.variants or w.variant in given.variants.split(","))]
    if given.what == "seconds":
        costs(given.files[0], chosen, str(device), given.pairs)
    else:
        record(given.files[0], chosen, str(device), given)


def record(file: Path, workloads: Sequence[Workload], device: str, given: argparse.Namespace) -> None:
    """Takes series after series until the seconds are over, and says a line of each benchmark."""
    end = time.monotonic() + given.seconds
    queue, lots = deque(workloads), lot(random.Random())
    with file.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"machine": machine.fingerprint(), "id": machine.identity(), "device": device,
                              "kind": kind(device), "label": given.label, "revision": machine.revision(),
                              "time": time.time()}) + "\n")
        out.flush()
        for number in itertools.count():
            began = time.monotonic()
            if began > end:
                return
            together = list(queue)[:given.rows]
            queue.rotate(-len(together))
            for line in series({w: next(lots) for w in together}, device, given.pairs, end):
                out.write(json.dumps({"series": number, **line}) + "\n")
                print(f"{line['planted']:5.0%} {len(line['pairs'])} pairs  {line['benchmark']}  {line['reason'] or ''}")
            print(f"      {time.monotonic() - began:.1f} s", flush=True)
            out.flush()


def lot(rng: random.Random) -> Iterator[float]:
    """Yields what is planted, in a new order each time that all have had their turn."""
    while True:
        yield from rng.sample(PLANTED, len(PLANTED))


def series(planted: dict[Workload, float], device: str, pairs: int, end: float) -> Iterator[dict[str, Any]]:
    """Yields a line for each workload, `planted` says how much slower it is made; all share their launches. No pair but
    the first is begun after the `end`."""
    tree, nursery = Side(ROOT, "the working tree"), nursery_of(device)
    lines: dict[Workload, dict[str, Any]] = {w: {"benchmark": w.id, "planted": share, "pairs": [], "reason": None}
                                             for w, share in planted.items()}
    with injected(json.dumps({w.id: f"slow:{share:.4g}" for w, share in planted.items() if share})):
        for turn in range(pairs):
            if turn and time.monotonic() > end:
                break
            with Pair(tree, tree, device, head_first=turn % 2 == 1, nursery=nursery) as pair:
                for w, line in lines.items():
                    if line["reason"]:
                        continue
                    try:
                        line["pairs"].append(taken(pair, w, rounds=0 if turn else ROUNDS))
                    except ValueError as error:
                        line["reason"] = str(error)
                        if isinstance(error, Died):  # and the pair with it
                            break
            if nursery:
                nursery.learn(pair.imports)
    yield from lines.values()


def taken(pair: Pair, w: Workload, rounds: int) -> dict[str, Any]:
    """Takes one pair. Raises ValueError where a side can't."""
    for side in pair.prepare(w, check=False):
        if reason := side.missing or side.wrong:
            raise ValueError(reason)
    ratio, times = pair.log_ratio(w), pair.times
    return {"ratio": ratio, "unfit": times.unfit, "host": times.host,
            **{side: summary(seconds, rounds) | ({"mhz": times.mhz[side]} if side in times.mhz else {})
               for side, seconds in (("base", times.base), ("head", times.head))}}


def summary(seconds: Sequence[float], rounds: int) -> dict[str, Any]:
    """Sums up a side's rounds; `rounds` are kept as they are, evenly taken from all of them."""
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    bounds = [i * len(seconds) // PARTS for i in range(PARTS + 1)]
    parts = [statistics.fmean(seconds[low:high]) for low, high in itertools.pairwise(bounds) if high > low]
    few = [seconds[i * len(seconds) // rounds] for i in range(rounds)] if len(seconds) > rounds else seconds
    numbers = {"min": min(seconds), "q1": q1, "median": median, "q3": q3, "mean": statistics.fmean(seconds)}
    return {"count": len(seconds), **{name: _short(x) for name, x in numbers.items()},
            "parts": [_short(x) for x in parts], **({"rounds": [_short(x) for x in few]} if rounds else {})}


def _short(seconds: float) -> float:
    return float(f"{seconds:.6g}")


def costs(file: Path, workloads: Sequence[Workload], device: str, pairs: int) -> None:
    """Takes pairs of the first workload of each variant in turn, by workers that are forked and by fresh ones, and says
    what each cost beyond its measuring."""
    tree, firsts = Side(ROOT, "the working tree"), {w.variant: w for w in reversed(workloads)}
    with file.open("w", encoding="utf-8") as out, Nursery(ROOT, variables("base", tree, device),
                                                          probe=device != "cpu") as nursery:
        for w, _, (how, made) in itertools.product(firsts.values(), range(pairs),
                                                   (("forked", nursery), ("fresh", None))):
            began = time.monotonic()
            with Pair(tree, tree, device, nursery=made) as pair:
                pair.prepare(w, check=False)
                ready = time.monotonic()
                ratio = pair.log_ratio(w)
                measured = time.monotonic()
            total = time.monotonic() - began
            nursery.learn(pair.imports)
            line = {"benchmark": w.id, "how": how, "seconds": total, "ready": ready - began,
                    "beyond": total - (measured - ready), "ratio": ratio, "refused": nursery.refused}
            out.write(json.dumps(line) + "\n")
            print(f"{how:7}{total:6.1f} s, {line['beyond']:.1f} beyond measuring, {ratio:+.2%}  {w.id}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
