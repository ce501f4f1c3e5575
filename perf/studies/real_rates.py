"""False alarms and power of each rule on the same real pairs, as docs/rates.md has them:

    python -m perf.studies.real_pairs replay --plot docs/rates.png > docs/rates.md

Of a comparison with nothing planted each call of "slower" is a false alarm; of the others it is a catch, and all else
a miss. Ours takes a pair after the other until it is sure, as live, and what it knows of this machine's spreads grows
from series to series of a file. Intervals are Wilson's, 95 % (J. American Statistical Association 22 (1927) 209).
"""
from __future__ import annotations

import itertools
import json
import math
import re
import statistics
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.policy.thresholds import FILE, thresholds
from perf.studies.real_rules import RULES, Comparison
from perf.system.files import open_bytes
from perf.verdict import spread
from perf.verdict.judgement import Judgement, share
from perf.verdict.verdict import Verdict

OURS, FAILS = "ours: regressed", "ours: exit 1"  # which undecided ones give too, if their interval is above the floor
RECORDS = sorted((Path(__file__).parents[1] / "records").glob("*/real-pairs*.jsonl.gz"))
NUMBER = re.compile(r"\d[\d.e+]*")
SHOWN = 2  # misses of a size that are told in words
Z = statistics.NormalDist().inv_cdf(0.975)

PAGE = """\
# How often each rule errs, on real pairs

`python -m perf.studies.real_pairs replay --plot docs/rates.png > docs/rates.md` makes this page from the records
`real-pairs*.jsonl.gz` in [perf/records](../perf/records); the README of each folder says how they were taken. The same
tree stood on both sides, and each call of the head took as much more time as the column says, which no counter shows.

A cell says how many of the comparisons the rule called slower: false alarms where nothing was planted, catches
elsewhere, all others missed; then the 95 % interval of that share in per cent (Wilson). Our rule sees a pair after the
other until it is sure or the record ends; *exit 1* counts what is undecided but lies above the floor, which fails a run
too. What else is undecided ends with exit 11 and is counted as missed. What the public rules see, whose code decides
and in which version: [perf/studies/real_rules.py](../perf/studies/real_rules.py). They are asked after the record's few
launches; Bencher and Otava are made for longer histories than these. A heading without "quiet" has records in it that
were taken beside other work.

![The share that each rule calls slower, over what was planted, a panel for each kind of machine](rates.png)
"""

Line = Mapping[str, Any]


class Rates:
    """Counts what rules said on one kind of machine: `said[rule][planted]` are the answers."""

    def __init__(self) -> None:
        self.said: dict[str, dict[float, list[bool]]] = defaultdict(lambda: defaultdict(list))
        self.words: dict[float, Counter[str]] = defaultdict(Counter)  # ours
        self.pairs: dict[float, list[int]] = defaultdict(list)
        self.missed: dict[float, list[str]] = defaultdict(list)  # by ours, and what it said
        self.reasons: Counter[str] = Counter()  # why something is not in it

    def add(self, lines: Sequence[Line]) -> None:
        """Adds a record."""
        first, earlier, history = lines[0], dict[str, Any](), defaultdict[str, list[float]](list)
        for _, group in itertools.groupby(lines[1:], key=lambda line: line["series"]):
            series = {line["benchmark"]: line for line in group}
            able = {name: line for name, line in series.items() if len(pairs(line)) > 1}
            self.reasons.update("fewer than two pairs: " + NUMBER.sub("...", line["reason"] or "the time was over")
                                for name, line in series.items() if name not in able)
            for name, verdict, count in concluded(first["kind"], able, earlier):
                planted, word = able[name]["planted"], verdict.word
                self.words[planted][word] += 1
                self.pairs[planted].append(count)
                self.said[OURS][planted].append(word == "regressed")
                if planted and word != "regressed":
                    self.missed[planted].append(f"`{name}` is {word}: {verdict.why}")
                self.said[FAILS][planted].append(word == "regressed" or (word == "inconclusive" and verdict.slower))
            for name, line in able.items():
                self.ask(line, history[name])

    def ask(self, line: Line, earlier: list[float]) -> None:
        """Asks the public rules, where the record holds what they look at, and adds the base's launches to what is
        `earlier`."""
        if any("base" not in pair for pair in pairs(line)):
            return
        base, head = ([pair[side] for pair in pairs(line)] for side in ("base", "head"))
        seen = Comparison(base, head, tuple(earlier))
        for rule, slower in RULES.items():
            try:
                answer = slower(seen)
            except ModuleNotFoundError as error:
                self.reasons[f"{rule} is left out: {error}"] = 1
                continue
            if answer is None:
                self.reasons[f"{rule} has too few samples"] += 1
            else:
                self.said[rule][line["planted"]].append(answer)
        earlier += (times["median"] for times in seen.base)


def pairs(line: Line) -> Sequence[Mapping[str, Any]]:
    """Lists a comparison's pairs; records before 2026-11-30 14:00 hold the ratios alone."""
    return line["pairs"] if "pairs" in line else [{"ratio": ratio} for ratio in line["ratios"]]


def concluded(kind: str, series: Mapping[str, Line], earlier: dict[str, Any]) -> Iterator[tuple[str, Verdict, int]]:
    """Gives each benchmark its recorded pairs, one after the other, until it is decided or there are no more. Yields
    its name, the verdict and how many pairs it took."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    known = {name: Judgement(thresholds(name, table, kind)) for name in series}
    left = {name: list(pairs(line)) for name, line in series.items()}
    undecided = list(known)
    while undecided:
        for name in undecided:
            pair, one = left[name].pop(0), known[name]
            if pair.get("unfit"):
                one.unfit.append(pair["unfit"])
                continue
            one.ratios.append(pair["ratio"])
            if pair.get("host") is not None:
                one.host_ratios.append(pair["host"])
        share(known, earlier, undecided)
        for name in undecided[:]:
            if known[name].done or not left[name]:
                undecided.remove(name)
                yield name, known[name].verdict(), len(pairs(series[name])) - len(left[name])
    for name, line in series.items():
        if taught := spread.of([pair["ratio"] for pair in pairs(line) if not pair.get("unfit")]):
            earlier[name] = earlier[name] + taught if name in earlier else taught


def rates(files: Sequence[Path]) -> dict[str, Rates]:
    """Reads records, by kind of machine and what ran beside them."""
    kinds: dict[str, Rates] = defaultdict(Rates)
    for file in files:
        with open_bytes(file) as lines:
            record = [json.loads(line) for line in lines]
        kinds[", ".join(filter(None, (record[0]["kind"], record[0].get("label"))))].add(record)
    return kinds


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Computes the 95 % interval of a share."""
    middle, wide = (hits + Z * Z / 2) / (trials + Z * Z), Z * math.sqrt(hits * (trials - hits) / trials + Z * Z / 4)
    return max(0.0, middle - wide / (trials + Z * Z)), min(1.0, middle + wide / (trials + Z * Z))


def page(kinds: Mapping[str, Rates]) -> str:
    """Writes the page in Markdown."""
    return "\n".join([PAGE, *(f"## {kind}\n\n" + "\n".join(table(kind, of)) + "\n" for kind, of in kinds.items())])


def table(kind: str, of: Rates) -> Iterator[str]:
    """Writes, in Markdown, how often each rule called the head slower; below it what ours said."""
    sizes = sorted(of.words)
    yield f"| {kind} | " + " | ".join(f"{size:.0%} slower" if size else "nothing planted" for size in sizes) + " |"
    yield "| --- " * (1 + len(sizes)) + "|"
    for rule, said in of.said.items():
        yield f"| {rule} | " + " | ".join(_cell(said[size]) for size in sizes) + " |"
    yield ""
    for size in sizes:
        words = ", ".join(f"{count} {word}" for word, count in sorted(of.words[size].items()))
        yield f"- ours, {f'{size:.0%} slower' if size else 'nothing planted'}: {words}; " \
              f"{statistics.fmean(of.pairs[size]):.1f} pairs"
        more = len(of.missed[size]) - SHOWN
        yield from (f"  - missed: {why}" for why in of.missed[size][:SHOWN])
        if more > 0:
            yield f"  - and {more} more"
    yield from (f"- {count} times {reason}" for reason, count in sorted(of.reasons.items()))


def _cell(answers: Sequence[bool]) -> str:
    if not answers:
        return "-"
    low, high = wilson(sum(answers), len(answers))
    return f"{sum(answers)} of {len(answers)} [{100 * low:.0f}, {100 * high:.0f}]"


def plot(kinds: Mapping[str, Rates], file: Path) -> None:
    """Draws, for each kind of machine, the share that each rule calls slower over what was planted."""
    from models.packages import needs

    with needs("matplotlib", "for the plot", "site"):
        from matplotlib.figure import Figure
    drawing = Figure(figsize=(5 * len(kinds) + 2.5, 4.5), layout="constrained")
    sizes = sorted({size for of in kinds.values() for size in of.words})
    for axes, (kind, of) in zip(drawing.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        for i, rule in enumerate((OURS, FAILS, *RULES)):
            points = [(x, sum(answers), len(answers)) for x, size in enumerate(sizes)
                      if (answers := of.said[rule][size])]
            shares = [hits / count for _, hits, count in points]
            bounds = [wilson(hits, count) for _, hits, count in points]
            axes.errorbar([x + 0.06 * (i - len(RULES) / 2) for x, *_ in points], shares,
                          [[abs(share - bound[side]) for share, bound in zip(shares, bounds, strict=True)]
                           for side in (0, 1)],
                          label=rule, color="black" if i < 2 else f"C{i - 2}", linestyle=":" if i == 1 else "-",
                          linewidth=3 if i < 2 else 1, elinewidth=0.5, marker="o", markersize=4,
                          zorder=3 if i < 2 else 2)
        axes.set_xticks(range(len(sizes)), [f"{size:.0%}" if size else "nothing:\nfalse\nalarms" for size in sizes])
        axes.set(title=kind, xlabel="time planted in the head", ylabel="called slower", ylim=(-0.02, 1.02),
                 xlim=(-0.5, len(sizes) - 0.5))
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    drawing.savefig(file, dpi=110)
