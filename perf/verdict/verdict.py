"""The verdict on one benchmark is a word and its reasons, made from evidence. It is pure: no I/O, no clock, no state.

The evidence of time is one log ratio (head over base) a launch pair: two freshly started processes, both alive,
alternating rounds. Rounds of one process are no independent samples, so they are not counted.

| word | the first that holds |
|---|---|
| wrong | the head's result is |
| invalid | the machine was unfit, on either side |
| missing, new | only the base can do it; only the head can, or only the head is right |
| regressed | the time did, or a counter gates (perf/verdict/exact.py), even where the two don't fit together |
| improved | the time did; or it is ok and a counter that gates fell |
| ok | no change larger than `effect` is left possible, and none is in sight |
| inconclusive | none of these: `more_pairs` of the same spread would decide |

A change is certain if the interval lies above `floor`, and a wider one, of the confidence that `alarm` asks for, above
no change at all; it is called by its sign, however small `effect` says it is. The first keeps what two placements of
the same code differ by from being called a change, the second bounds false alarms whatever the spread. Both belong to
a confidence sequence (perf/verdict/intervals.py), so looking after each pair costs nothing. So less noise never hides
a change. A change is in sight if the middle lies above the floor by `DOUBT` standard errors: then more pairs are
taken, and the word is not ok. "ok" says within what it is the same: the farther end of the interval.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf.policy.thresholds import Thresholds, thresholds
from perf.verdict.causes import rank
from perf.verdict.exact import Change, Side, changes
from perf.verdict.intervals import FINEST, Estimate, estimate
from perf.verdict.words import first_cause, pairs_to_decide, times, within

__all__ = ["WORDS", "Side", "Thresholds", "Verdict", "counters_decide", "decide", "family", "may_stop",
           "thresholds"]

WORDS = ("wrong", "invalid", "missing", "new", "regressed", "improved", "ok", "inconclusive")
DOUBT = 2.0  # standard errors, at one look
MANY = 1000  # pairs; beyond it nobody waits
HOPELESS = 3  # times the most pairs: where even as many would not decide, half of the most is enough to see it
SHARED = 0.6  # part of the benchmarks: as many changes of one sign are one finding


@dataclass(frozen=True)
class Verdict:
    """Holds the word on `ratio`, head over base, and its interval from `low` to `high`; None where nothing was timed,
    and an interval from 0 to infinity where pairs are too few for one. `more_pairs` is 0 where the word is not
    "inconclusive". `certified` is the smallest change that as many pairs of this spread tell from none (0.04 is 4 %),
    `within_reach` the smallest that the most pairs would tell. `slower`: the interval lies above the floor, whatever
    the word. `cause`: what most likely regressed it (perf/verdict/causes.py); None where nothing counted moved."""

    word: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    why: str = ""
    more_pairs: int = 0
    certified: float | None = None
    within_reach: float | None = None
    slower: bool = False
    cause: str | None = None


def decide(pairs: Sequence[float], base: Side, head: Side, thresholds: Thresholds) -> Verdict:
    """Decides by all log ratios so far, one a launch pair. Raises ValueError, in one line, for one that is not
    finite."""
    t = thresholds
    gates = changes(base, head, t)
    if known := _growth(base, head, gates) or _without_time(base, head):
        return Verdict(known[0], pairs=len(pairs), why=known[1], cause=known[2])
    if len(pairs) < (1 if t.weight else 2):
        return _without_pairs(pairs, base, head, gates, t)
    seen = estimate(pairs, t.prior)
    half = seen.half_width(1 - t.confidence)
    timed = _word(seen, len(pairs), t)
    word = _with_counters(timed, gates)
    more = _more_pairs(seen, len(pairs), t) if word == "inconclusive" else 0
    certified = _certify(seen, t)
    cause, words = _reasons(word, base, head, gates, math.expm1(seen.middle) if timed == "regressed" else 0.0)
    why = [times(seen.middle, half, len(pairs)), *words]
    if word == "inconclusive":
        why.insert(1, pairs_to_decide(certified, more, "about" if more < MANY else "more than"))
    elif timed == "ok":
        why[0] = f"{why[0]}, {within(abs(seen.middle) + half)}"
    return Verdict(word, _ratio(seen.middle), _ratio(seen.middle - half), _ratio(seen.middle + half), len(pairs),
                   "; ".join(why), more, certified, _certify(seen, t, t.most_pairs),
                   seen.middle - half > math.log1p(t.floor), cause)


def counters_decide(base: Side, head: Side, thresholds: Thresholds) -> bool:
    """Tells whether counters alone make it regressed, whatever the time."""
    return any(change.sign > 0 and not change.work for change in changes(base, head, thresholds))


def may_stop(pairs: Sequence[float], thresholds: Thresholds) -> bool:
    """Tells whether sampling may stop: the time's word is known, or the most pairs are taken, or would be hopelessly
    few.

    May be asked after each pair: intervals hold at all looks together (perf/verdict/intervals.py).
    """
    n, t = len(pairs), thresholds
    if n < t.least_pairs:
        return False
    if n >= t.most_pairs:
        return True
    seen = estimate(pairs, t.prior)
    if _word(seen, n, t) != "inconclusive":
        return True
    far = HOPELESS * t.most_pairs
    return 2 * n >= t.most_pairs and _more_pairs(seen, n, t, most=far) >= far


def family(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Says what many verdicts say together, a sentence each: a change across most benchmarks is one finding.

    `Thresholds.among` keeps their number from multiplying false alarms.
    """
    timed = [v.ratio for v in verdicts.values() if v.ratio is not None and v.word in ("regressed", "improved", "ok")]
    sentences = []
    for word in ("regressed", "improved"):
        ratios = [v.ratio for v in verdicts.values() if v.word == word and v.ratio is not None]
        if len(ratios) >= 3 and len(ratios) >= SHARED * len(timed):
            mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
            sentences.append(f"one finding: {len(ratios)} of {len(timed)} benchmarks {word}, {mean:.3f}x the base's "
                             "time (geometric mean); look for what they share")
    return sentences


def _without_time(base: Side, head: Side) -> tuple[str, str, None] | None:
    """Gives word and reason where no time can be compared."""
    if head.wrong:
        return "wrong", head.wrong, None
    if reason := head.invalid or base.invalid:
        return "invalid", reason, None
    if head.missing:
        who = "neither side can" if base.missing else "the head can't"
        return "missing", f"{who} do it: {head.missing}", None
    if base.missing:
        return "new", f"the base can't do it: {base.missing}", None
    if base.wrong:
        return "new", f"the base is wrong: {base.wrong}", None
    return None


def _growth(base: Side, head: Side, gates: list[Change]) -> tuple[str, str, str | None] | None:
    """Judges two that were counted and don't fit beside each other: what grew must not hide behind that."""
    worse = [change for change in gates if change.sign > 0]
    if not (worse and base.missing and head.missing) or head.wrong or head.invalid or base.invalid:
        return None
    cause, words = _reasons("regressed", base, head, worse, 0.0)
    return "regressed", "; ".join(["not timed", *words, head.missing]), cause


def _reasons(word: str, base: Side, head: Side, gates: list[Change], slower: float) -> tuple[str | None, list[str]]:
    """Gives the likely cause of what regressed, and the words of all changes, the causes' first."""
    causes = rank(gates, base, head, slower) if word == "regressed" else []
    others = [change.words for change in gates if change.words not in {one.words for _, one in causes}]
    unread = [head.unread] if word == "regressed" and head.unread else []
    if causes:
        (cause, first), *rest = causes
        return cause, [first_cause(cause, first.words), *(change.words for _, change in rest), *others, *unread]
    unmoved = ["nothing that is counted moved"] if word == "regressed" and base.counters and not others else []
    return None, [*unmoved, *others, *unread]


def _without_pairs(pairs: Sequence[float], base: Side, head: Side, gates: list[Change], t: Thresholds) -> Verdict:
    """Decides by counters alone; one pair tells a ratio, but not how far to trust it."""
    word = _with_counters("inconclusive", gates)
    at_best = Estimate(sum(pairs), FINEST, len(pairs), correlation=t.correlation)
    lacking = _more_pairs(at_best, len(pairs), t) if word == "inconclusive" else 0
    time = times(pairs[0], math.inf, 1) if pairs else "not timed"
    ratio, low, high = (_ratio(pairs[0]), 0.0, math.inf) if pairs else (None, None, None)
    cause, words = _reasons(word, base, head, gates, 0.0)
    why = [time, *([pairs_to_decide(None, lacking, "at least")] if lacking else []), *words]
    return Verdict(word, ratio, low, high, len(pairs), "; ".join(why), lacking, cause=cause)


def _with_counters(timed: str, gates: list[Change]) -> str:
    if any(change.sign > 0 and not (change.work and timed == "improved") for change in gates):
        return "regressed"
    if timed == "ok" and any(change.sign < 0 for change in gates):
        return "improved"
    return timed


def _word(seen: Estimate, n: int, t: Thresholds) -> str:
    """Gives the word of the time alone, by what was seen in n pairs, or by what would be seen were all pairs like
    these."""
    if n < t.least_pairs:
        return "inconclusive"
    away, floor = abs(seen.middle), math.log1p(t.floor)
    half = seen.half_width(1 - t.confidence, n)
    if n >= t.least_change and away - half > floor and away > seen.half_width(2 * t.alarm, n):
        return "regressed" if seen.middle > 0 else "improved"
    if away + half < math.log1p(t.effect) and away - DOUBT * seen.error(n) <= floor:
        return "ok"
    return "inconclusive"


def _more_pairs(seen: Estimate, pairs: int, t: Thresholds, most: int = MANY) -> int:
    """Counts how many more would decide if they looked like these; `most` stands for as many or more."""
    deciding = (n for n in range(pairs + 1, pairs + most) if _word(seen, n, t) != "inconclusive")
    return next(deciding, pairs + most) - pairs


def _certify(seen: Estimate, t: Thresholds, pairs: int | None = None) -> float | None:
    """Gives the smallest change that would be called one where the estimate is just that, after as many `pairs` of this
    spread (those seen, unless given); None where there is none yet."""
    half, alarm = seen.half_width(1 - t.confidence, pairs), seen.half_width(2 * t.alarm, pairs)
    least = max(half + math.log1p(t.floor), alarm)
    return math.expm1(least) if least < 50 else None


def _ratio(log_ratio: float) -> float:
    return math.exp(log_ratio) if log_ratio < 700 else math.inf
