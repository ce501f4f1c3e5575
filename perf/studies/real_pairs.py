"""Launch pairs of the working tree and itself, with more time planted in some: `python -m perf.studies.real_pairs`.

    python -m perf.studies.real_pairs record FILE.jsonl --device cuda --seconds 240   # A/A, and 1 to 20 % more time
    python -m perf.studies.real_pairs replay FILE.jsonl                               # what three rules say
    python -m perf.studies.real_pairs seconds FILE.jsonl --device cuda                # what a pair costs

The first line of FILE names the machine. Every other is one series: a benchmark, what was planted (0.02 is 2 % more
time in each call of the head, which no counter shows), and the log ratios of its pairs in order; series with the same
number shared their launches. Every pair is two fresh processes, as `--perf-against` takes them, so any rule may be
replayed on the very same pairs. A pair measured on an unfit machine is no ratio; its reason is kept.
"""
from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
import tomllib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.compare import live
from perf.compare.nursery import Nursery
from perf.compare.pairs import Case, Pair
from perf.compare.process import Died, variables
from perf.compare.selftest import benchmarks, injected
from perf.compare.side import ROOT, Side
from perf.measure import machine
from perf.policy.thresholds import FILE, Thresholds, thresholds
from perf.system.devices import device as device_of
from perf.verdict import spread
from perf.verdict.judgement import Judgement, share
from perf.workloads.workload import Workload

PLANTED = (0.0, 0.02, 0.0, 0.01, 0.0, 0.05, 0.0, 0.03, 0.0, 0.10, 0.0, 0.20)  # a series of each variant, in this order
PAIRS = 6  # of a series


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.studies.real_pairs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "replay", "seconds"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=240.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each series (default: %(default)s)")
    parser.add_argument("--grid", default="quick", help="whose benchmarks are taken (default: %(default)s)")
    parser.add_argument("--bare", action="store_true", help="attention alone, no models")
    parser.add_argument("--rows", type=int, help="benchmarks of a series, in turn (default: all of its variant)")
    parser.add_argument("--variants", help="by comma (default: those of the grid)")
    given = parser.parse_args(arguments)
    if given.what == "replay":
        print("\n".join(replayed([json.loads(line) for line in given.file.read_text().splitlines()])))
        return
    device = device_of(given.device)
    chosen = [w for w in benchmarks(device, quick=False, name=given.grid)
              if (w.bare or not given.bare) and (not given.variants or w.variant in given.variants.split(","))]
    if given.what == "seconds":
        costs(given.file, chosen, str(device), given.pairs)
    else:
        record(given.file, chosen, str(device), given.pairs, given.seconds, given.rows)


def record(file: Path, workloads: Sequence[Workload], device: str, pairs: int, seconds: float,
           rows: int | None) -> None:
    """Takes series after series until the seconds are over, and says a line of each."""
    end = time.monotonic() + seconds
    variants = {w.variant: deque(each for each in workloads if each.variant == w.variant) for w in workloads}
    numbers = itertools.count()
    with file.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"machine": machine.fingerprint(), "id": machine.identity(), "device": device,
                              "kind": live.kind(device), "revision": machine.revision(), "time": time.time()}) + "\n")
        out.flush()
        for planted, able in ((each, able) for each in itertools.cycle(PLANTED) for able in variants.values()):
            if time.monotonic() > end:
                return
            number, began = next(numbers), time.monotonic()
            together = list(able)[:rows]
            able.rotate(-len(together))
            for line in series(together, device, planted, pairs, end):
                out.write(json.dumps({"series": number, **line}) + "\n")
                print(f"{planted:5.0%} {len(line['ratios'])} pairs  {line['benchmark']}", flush=True)
            print(f"      {time.monotonic() - began:.1f} s", flush=True)
            out.flush()


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


def series(workloads: Sequence[Workload], device: str, planted: float, pairs: int,
           end: float) -> Iterator[dict[str, Any]]:
    """Yields a line for each workload of one variant."""
    tree = Side(ROOT, "the working tree")
    cases = [Case(Thresholds(), workload=w) for w in workloads]
    for case in cases:
        case.checked = True  # both sides are the same tree, and their times are all that is wanted
    with injected(f"slow:{planted:.4g}" if planted else None):
        for turn in range(pairs):
            if turn and time.monotonic() > end:
                break
            with Pair(tree, tree, device, head_first=turn % 2 == 1, nursery=live.nursery(device)) as pair:
                for case in cases:
                    try:
                        case.measure(pair)
                    except Died as error:
                        case.died(error)
                        break
    for case in cases:
        reason = next((text for side in (case.base, case.head) if (text := side.wrong or side.missing)), None)
        yield {"benchmark": case.workload.id, "planted": planted, "ratios": case.ratios, "unfit": case.unfit,
               "reason": reason,
               "seconds": statistics.median(case.base_seconds) if case.base_seconds else None}


def replayed(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Says what the shipped rule makes of a record, by what was planted: what is known of this machine's spreads grows
    from series to series, as from run to run."""
    first, table = lines[0], tomllib.loads(FILE.read_text(encoding="utf-8"))
    earlier: dict[str, Any] = {}
    words: dict[float, Counter[str]] = {}
    pairs: dict[float, list[int]] = {}
    alarms: dict[float, Counter[str]] = {}
    for _, group in itertools.groupby(lines[1:], key=lambda line: line["series"]):
        known, left = {}, {}
        for line in group:
            if len(line["ratios"]) > 1:
                known[line["benchmark"]] = Judgement(thresholds(line["benchmark"], table, first["kind"]))
                left[line["benchmark"]] = line
        for name, word, count in concluded(known, {name: line["ratios"] for name, line in left.items()}, earlier):
            words.setdefault(left[name]["planted"], Counter())[word] += 1
            pairs.setdefault(left[name]["planted"], []).append(count)
            alarms.setdefault(left[name]["planted"], Counter()).update(public_alarms(left[name]["ratios"][0]))
    yield f"{first['kind']}: {sum(sum(one.values()) for one in words.values())} comparisons"
    for planted in sorted(words):
        counts = ", ".join(f"{word} {count}" for word, count in sorted(words[planted].items()))
        yield f"{planted:5.0%}  {counts}; pairs {statistics.fmean(pairs[planted]):.1f}"
        yield "       by the first pair alone: " + ", ".join(
            f"{rule} {count}" for rule, count in sorted(alarms[planted].items()))


def public_alarms(ratio: float) -> dict[str, bool]:
    """Asks two public rules, by their own code, whether the head of one pair is slower: both compare two numbers. asv's
    further test needs each side's samples, which a record does not hold, so it is left out here."""
    from asv.commands.compare import _is_result_better
    from pytest_benchmark.utils import PercentageRegressionCheck

    base, head = 1.0, math.exp(ratio)
    fails = PercentageRegressionCheck("median", 5.0).fails({"median": head}, {"median": base})
    return {"asv compare 1.1": bool(_is_result_better(base, head, None, None, 1.1)),
            "pytest-benchmark median:5%": bool(fails)}


def concluded(known: Mapping[str, Judgement], ratios: Mapping[str, Sequence[float]],
              earlier: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Gives each judgement its recorded pairs, one after the other, until it is done or there are no more."""
    undecided = list(known)
    while undecided:
        for name in undecided:
            known[name].ratios.append(ratios[name][len(known[name].ratios)])
        share(known, earlier, undecided)
        for name in undecided[:]:
            if known[name].done or len(known[name].ratios) == len(ratios[name]):
                undecided.remove(name)
                yield name, known[name].verdict().word, len(known[name].ratios)
    for name in known:
        if one := spread.of(ratios[name]):
            earlier[name] = earlier[name] + one if name in earlier else one


if __name__ == "__main__":
    main(sys.argv[1:])
