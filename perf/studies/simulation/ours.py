"""Plays this project's nightly rule in a simulated world: the functions of perf/verdict, fed with simulated figures."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perf.policy.thresholds import Thresholds
from perf.studies.simulation.world import World
from perf.verdict import learn, nightly
from perf.verdict.intervals import estimate
from perf.verdict.judgement import Judgement
from perf.verdict.learn import plan
from perf.verdict.nights import AGAIN, LAUNCHES
from perf.verdict.screen import MONTH, WEEK, WINDOW, Array
from perf.verdict.verdict import Side

ROUNDS = 5  # of a launch
FIRST_AUDIT = 10  # the night from which on a pair's spread is known
SIDE = Side({}, None, None)


@dataclass
class Knowledge:
    """Holds what the nights before have taught: spreads of pairs and layouts, rounds, and the smallest changes
    certified (infinite: none)."""

    look: Array  # spread of a pair of ROUNDS rounds
    pair: Array
    rounds: NDArray[np.int64]
    layout: Array
    asked: Array  # what is looked for
    certified: Array


@dataclass
class Answer:
    """Holds what was said of one night, by benchmark, and what it cost in rounds of one side."""

    slower: NDArray[np.bool_]
    faster: NDArray[np.bool_]
    rounds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


class Ours:
    """Looks at one night after the other; `compared` is what it has learned from. `plain`: suspects are confirmed by
    the committed settings alone, as `--perf-against` does."""

    def __init__(self, world: World, *, plain: bool = False) -> None:
        self.world, self.plain = world, plain
        self.settings = [Thresholds()] * world.benchmarks
        self.passes, self.controls = world.passes(AGAIN, ROUNDS), world.controls(LAUNCHES, ROUNDS).mean(axis=2)
        self.within = world.within * np.exp(world.rng.normal(0, 0.05, world.benchmarks))  # as 300 rounds tell it
        self.compared: list[list[learn.Difference]] = []

    def knowledge(self, night: int) -> Knowledge:
        look = learn.pair_spread(self.passes[max(0, night - learn.REMEMBERED):night, :, :LAUNCHES])
        recent = [one for nights in self.compared[-learn.REMEMBERED:] for one in nights]
        layout = learn.layout_spread(recent, self.world.benchmarks)
        pair, rounds, plans = nightly.confirmations(look, self.within, layout, ROUNDS, self.settings)
        asked = np.array([one.effect or one.thresholds.effect for one in plans])
        return Knowledge(look, pair, rounds, layout, asked, np.array([one.effect or np.inf for one in plans]))

    def audit(self, night: int, knowledge: Knowledge) -> float:
        """Learns from the night's audits; gives what they cost."""
        audits, cost = [], 0.0
        for b in learn.audits(night, knowledge.look):
            rounds = int(knowledge.rounds[b])
            ratios = self.world.pairs(b, night, max(0, night - WEEK), learn.AUDIT_PAIRS, rounds)
            estimated = estimate(ratios.tolist())
            audits.append(learn.Difference(b, estimated.middle, estimated.spread / estimated.kept ** 0.5, True))
            cost += 2 * rounds * len(ratios)
        self.compared.append(audits)
        return cost

    def night(self, night: int, knowledge: Knowledge, steps: Array | None = None,
              only: NDArray[np.bool_] | None = None) -> Answer:
        """Judges a night. `steps` (nights, benchmarks) is the change put in, in logarithms; `only` are the benchmarks
        that are looked at. What it learns is kept only where nothing was put in."""
        w = self.world
        start = max(0, night + 1 - WINDOW)
        passes, controls = self.passes[start:night + 1].copy(), self.controls[start:night + 1]
        if steps is not None:
            passes += steps[start:night + 1, :, None]
        more = passes[-1, :, LAUNCHES:].copy()
        passes[:, :, LAUNCHES:] = np.nan
        groups = w.group, w.control_group
        asked = np.ones(w.benchmarks, bool) if only is None else only
        again = asked & (nightly.look(passes, controls, *groups, knowledge.look, knowledge.asked, night).suspect != "")
        passes[-1, again, LAUNCHES:] = more[again]
        suspects = nightly.look(passes, controls, *groups, knowledge.look, knowledge.asked, night).suspect
        answer = Answer(np.zeros(w.benchmarks, bool), np.zeros(w.benchmarks, bool))
        answer.rounds += again.sum() * (AGAIN - LAUNCHES) * ROUNDS
        answer.counts["again"] = int(again.sum())
        compared = []
        for b in np.flatnonzero(again & (suspects != "")).tolist():
            word, pairs, lesson = self.confirm(b, str(suspects[b]), night, knowledge, steps)
            answer.slower[b], answer.faster[b] = word == "regressed", word == "improved"
            answer.rounds += 2 * int(knowledge.rounds[b]) * pairs
            answer.counts.update({"compared": 1, "pairs": pairs, word: 1})
            if lesson:
                compared.append(lesson)
        if steps is None:
            self.compared[-1] += compared
        return answer

    def confirm(self, b: int, why: str, night: int, knowledge: Knowledge,
                steps: Array | None) -> tuple[str, int, learn.Difference | None]:
        """Gives the verdict's word, the pairs it took, and what they teach."""
        base = max(0, night - (MONTH if why in nightly.CREPT else WEEK))
        t = plan(self.settings[b], float(knowledge.pair[b]), float(knowledge.layout[b]),
                 strong=why in nightly.STRONG).thresholds
        if self.plain:
            t = self.settings[b]
        change = 0.0 if steps is None else steps[night, b] - steps[base, b]
        judgement = Judgement(t, SIDE, SIDE)
        pairs = iter((self.world.pairs(b, night, base, t.most_pairs, int(knowledge.rounds[b])) + change).tolist())
        while not judgement.done:
            judgement.ratios.append(next(pairs))
        word, ratios = judgement.verdict().word, judgement.ratios
        if word in ("regressed", "improved"):
            return word, len(ratios), None
        lesson = estimate(ratios, t.prior)
        return word, len(ratios), learn.Difference(b, lesson.middle, lesson.error(), False)
