"""A judgement follows one benchmark from its first launch pair to its verdict, by the rule that live pairs take
(perf/compare/pairs.py) and that simulations score (perf/studies/simulation, perf/tests/simulation.py). It is pure.

    judgement = Judgement(thresholds, base, head)
    while not judgement.done:
        judgement.ratios.append(...)               # log(head / base) of one more pair
        share([judgement, *others], earlier)       # what each borrows of the others' spread
    judgement.verdict()
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from perf.policy.thresholds import Prior, Thresholds
from perf.verdict import spread
from perf.verdict.causes import HOST
from perf.verdict.spread import Spread
from perf.verdict.verdict import Side, Verdict, counters_decide, decide, may_stop

UNFIT = 3  # pairs on an unfit machine before a benchmark with no other is invalid
ENOUGH = 6  # pairs that say about how much slower it is, where counters have said that it is regressed
UNKNOWN = Side({}, None, None)


@dataclass
class Judgement:
    """Holds a benchmark's evidence so far: `ratios` are the log ratios of its pairs, `unfit` the reasons why others are
    none, `prior` what it borrows of what is known of pairs."""

    thresholds: Thresholds
    base: Side = UNKNOWN
    head: Side = UNKNOWN
    ratios: list[float] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    prior: Prior | None = None
    host_ratios: list[float] = field(default_factory=list)  # of the host's seconds, where a user waits for launching

    @property
    def settings(self) -> Thresholds:
        """Gives the thresholds, with what is borrowed."""
        if self.prior is None:
            return self.thresholds
        return replace(self.thresholds, spread=self.prior.spread, weight=self.prior.weight,
                       correlation=min(self.prior.correlation, self.thresholds.correlation))

    @property
    def able(self) -> bool:
        """Tells whether both sides can do it, and rightly."""
        return not any(side.missing or side.wrong for side in (self.base, self.head))

    @property
    def counters_decide(self) -> bool:
        """Tells whether counters have decided."""
        return counters_decide(self.base, self.head, self.thresholds)

    @property
    def done(self) -> bool:
        """Tells whether no more pairs are asked for."""
        if not self.able or (len(self.ratios) >= ENOUGH and self.counters_decide):
            return True
        if not self.ratios:
            return len(self.unfit) >= UNFIT
        return may_stop(self.ratios, self.settings) and (
            not self.host_ratios or may_stop(self.host_ratios, host_settings(self.thresholds)))

    def verdict(self) -> Verdict:
        """Decides by what there is."""
        invalid = self.unfit[-1] if self.unfit and not self.ratios else None
        timed = decide(self.ratios, self.base, replace(self.head, invalid=invalid or self.head.invalid), self.settings)
        return with_host(timed, self.host_ratios, self.thresholds)


def host_settings(t: Thresholds) -> Thresholds:
    """Gives the thresholds of the host's seconds: 10 % is the floor, 25 % matters, twelve pairs are the most."""
    return replace(t, floor=0.1, effect=0.25, spread=0.05, weight=2.0, least_pairs=2, least_change=2, most_pairs=12)


def with_host(timed: Verdict, ratios: Sequence[float], t: Thresholds) -> Verdict:
    """Joins the verdict on the time with that on the host's seconds, by one log ratio a pair.

    A user waits for these where launching takes longer than what is launched. They spread more, and what differs
    between two processes that run the same Python is larger, so the settings are wider; no record of a GPU stands
    behind them yet. Only a certain rise gates: an undecided one is mentioned, and leaves the word of the time as it is.
    """
    if not ratios or timed.word in ("wrong", "invalid", "missing", "new"):
        return timed
    host = decide(ratios, UNKNOWN, UNKNOWN, host_settings(t))
    launching = f"launching: {host.why}"
    if host.word != "regressed" or timed.word == "regressed":
        return replace(timed, why=f"{timed.why}; {launching}")
    return replace(timed, word="regressed", cause=HOST, more_pairs=0, why=f"{launching}; the GPU: {timed.why}")


def share(judgements: Mapping[str, Judgement], earlier: Mapping[str, Spread], names: Iterable[str]) -> None:
    """Gives those of these `names` what they may borrow: of their own `earlier` spread on this machine, and of the
    other benchmarks', of this run and earlier."""
    now = {name: spread.of(one.ratios) for name, one in judgements.items()}
    spreads = {name: _together(now.get(name), earlier.get(name)) for name in {*now, *earlier}}
    for name in names:
        one = judgements[name]
        others = [known for other, known in spreads.items() if other != name and known]
        one.prior = spread.borrow(one.thresholds.prior, earlier.get(name), others)


def _together(*spreads: Spread | None) -> Spread | None:
    known: Sequence[Spread] = [one for one in spreads if one]
    return sum(known[1:], known[0]) if known else None
