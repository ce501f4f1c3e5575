"""Scores nightly rules in seeded worlds, as a table and as JSON: `python -m perf.studies.simulation`.

    python -m perf.studies.simulation --seeds 40 --record docs/nightly.jsonl   # all rules in one world, ours in all

Worlds of seeds below 5000 were tuned on; they are scored from 5000 on.
"""
from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from perf.studies.simulation import public
from perf.studies.simulation.score import SIZES, WITHIN, Score, of_ours
from perf.studies.simulation.world import WORLDS

OURS, PLAIN = "screen + confirm", "screen + plain pairs"
SCORING = 5000
SLOW_SEEDS = 8  # of rules whose code takes long
LINE = "{:<24}{:<23}{:>6}{:>9}{:>8}{:>8}{:>8}{:>8}{:>7}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.studies.simulation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help=f"at most {SLOW_SEEDS} of {', '.join(public.SLOW)}")
    parser.add_argument("--first", type=int, default=SCORING, help="seed (default: %(default)s)")
    parser.add_argument("--benchmarks", type=int, default=300)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="of our rule; others are scored in the first")
    parser.add_argument("--rules", default=",".join([OURS, PLAIN, *public.RULES]))
    parser.add_argument("--record", type=Path, help="a file of JSON lines to add to")
    args = parser.parse_args(arguments)
    names, worlds = args.rules.split(","), args.worlds.split(",")
    for asked, choices in ((names, [OURS, PLAIN, *public.RULES]), (worlds, WORLDS)):
        if unknown := [one for one in asked if one not in choices]:
            parser.error(f"unknown: {unknown[0]!r}; choose from {', '.join(choices)}")
    print(LINE.format("rule", "world", "seeds", "false", "5 %", "5 %", "5 %", "certi-", "cost"))
    print(LINE.format("", "", "", "/ 1000", "1 night", "3", "7", "fied", ""))
    for name, world in [(rule, place) for rule in names for place in (worlds if rule == OURS else worlds[:1])]:
        seeds = range(args.first, args.first + (min(args.seeds, SLOW_SEEDS) if name in public.SLOW else args.seeds))
        started = time.perf_counter()
        try:
            score = _rule(name)(seeds, WORLDS[world], benchmarks=args.benchmarks)
        except ModuleNotFoundError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        print("\n".join(lines(name, world, score)), flush=True)
        if args.record:
            with args.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record(name, world, seeds, score, time.perf_counter() - started)) + "\n")


def _rule(name: str) -> Callable[..., Score]:
    if name in (OURS, PLAIN):
        return functools.partial(of_ours, plain=name == PLAIN)
    return functools.partial(public.of_rule, name)


def lines(name: str, world: str, score: Score) -> list[str]:
    """Writes the scores of all benchmarks, and below them those of the certified ones."""
    rows = [LINE.format(name, world, score.seeds, f"{1000 * score.alarms / score.nights:.3f}",
                        *(_share(score.share(0.05, nights)) for nights in WITHIN), "", f"{score.cost:.2f}")]
    if name in (OURS, PLAIN):
        alarms = 1000 * score.certified_alarms / score.certified_nights if score.certified_nights else 0.0
        rows.append(LINE.format("  certified at 5 %", "", "", f"{alarms:.3f}" if score.certified_nights else "-",
                                *(_share(score.share(0.05, nights, certified=True)) for nights in WITHIN),
                                f"{score.certified_nights / score.nights:.0%}", ""))
    return rows


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.2%}"


def record(name: str, world: str, seeds: range, score: Score, seconds: float) -> dict:
    def table(certified: bool) -> dict[str, dict[str, float | None]]:
        return {f"{size:.0%}": {str(nights): _number(score.share(size, nights, certified=certified))
                                for nights in WITHIN} for size in SIZES}

    return {"rule": name, "world": world, "seeds": [seeds.start, seeds.stop - 1], "benchmark_nights": score.nights,
            "false_alarms": score.alarms, "certified_nights": score.certified_nights,
            "certified_false_alarms": score.certified_alarms, "called_faster": score.faster,
            "steps": score.steps[0.05], "certified_steps": score.certified_steps[0.05], "caught": table(False),
            "certified_caught": table(True), "cost": score.cost,
            "a_night": {key: value / score.nights for key, value in score.counts.items()}, "seconds": seconds}


def _number(value: float) -> float | None:
    return None if value != value else value


if __name__ == "__main__":
    main(sys.argv[1:])
