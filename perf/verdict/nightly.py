"""The nightly decision says which benchmarks are suspects tonight, against what and how each is confirmed, and what the
night can promise of the others. It is pure: measured nights in, plans and verdicts out; no I/O, no clock.

    plan = plan_night(nights, groups, control_groups, settings)   # tonight's last, two launches of each benchmark
    # measure plan.again two more times, put that into tonight's record, and
    plan = plan_night(nights, groups, control_groups, settings)
    # compare each of plan.suspects and plan.audits by live pairs (perf/compare/pairs.py) with its own settings, and
    night = with_lessons(tonight, comparisons)                    # which is stored

| step | file |
|---|---|
| what the whole machine did is taken off, tonight is held against 30 nights | screen.py |
| the spread of launch pairs and layouts is learned | learn.py |
| the smallest change that is certain to be found, and the settings of its confirmation | learn.py |
| tonight's commit against the last good one, pairs of live processes until it is decided | pairs.py, verdict.py |
| a change of driver, torch or GPU starts the history anew | nights.py |

The last good commit is the newest of at least a week ago, since when the benchmark's time was not found to be another:
so a slowdown that one night misses is not its own base the night after. What only the last week or month shows is
compared with the oldest of the last 30 nights. docs/nightly-rule.md has the rule's errors in simulated worlds,
beside those of other tools.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perf.policy.thresholds import Thresholds
from perf.verdict.intervals import estimate
from perf.verdict.learn import Plan, audits, layout_spread, plan, rounds_of_pair, with_rounds
from perf.verdict.nights import AGAIN, LAUNCHES, Comparison, Measurement, Tables, environment_change, environment_start
from perf.verdict.screen import (
    EXCLUDED,
    FEWEST,
    FEWEST_CONTROLS,
    MONTH,
    WEEK,
    WINDOW,
    Array,
    Screening,
    figures,
    screen,
    without_common_mode,
)
from perf.verdict.verdict import Verdict
from perf.verdict.words import many

STRONG = ("slower", "week", "month", "faster")
CREPT = ("week", "month")  # suspects for what more nights than tonight show


@dataclass(frozen=True)
class Suspect:
    """Is one benchmark to be compared: `why` is the screen's word, or "audit"; `base` the commit to compare with;
    `thresholds` has the rounds of a pair too."""

    benchmark: str
    why: str
    base: str
    thresholds: Thresholds


@dataclass(frozen=True)
class NightPlan:
    """Holds the plan of a night: `again` are the ids that were measured twice only and are to be measured two more
    times before they are compared; `plans` what each benchmark promises; `cleared` the verdicts on those that are no
    suspects; `notes` sentences."""

    suspects: tuple[Suspect, ...]
    again: tuple[str, ...]
    audits: tuple[Suspect, ...]
    plans: Mapping[str, Plan]
    cleared: Mapping[str, Verdict]
    notes: tuple[str, ...]


def look(passes: Array, controls: Array, group: NDArray[np.int64], control_group: NDArray[np.int64], pair: Array,
         effect: Array, night: int) -> Screening:
    """Screens the last night of log times `passes` (nights, benchmarks, launches) and `controls` (nights, controls); a
    benchmark's last week is looked at every seventh night."""
    window = slice(-WINDOW, None)
    adjusted = without_common_mode(figures(passes[window], pair), group, controls[window], control_group)
    launches = np.maximum(np.isfinite(passes[-1]).sum(axis=1), LAUNCHES)
    due = (np.arange(len(group)) + night) % WEEK == 0
    return screen(adjusted, effect, pair=np.nan_to_num(pair), launches=launches, due=due)


def confirmations(pair: Array, within: Array, layout: Array, rounds: int,
                  settings: Sequence[Thresholds]) -> tuple[Array, NDArray[np.int64], list[Plan]]:
    """Gives the spread of a pair of the rounds chosen for it, these rounds, and what is promised, for each
    benchmark."""
    chosen = rounds_of_pair(pair, within, rounds)
    spread = with_rounds(pair, within, rounds, chosen)
    return spread, chosen, [plan(*one) for one in zip(settings, spread.tolist(), layout.tolist(), strict=True)]


def plan_night(nights: Sequence[Measurement], groups: Mapping[str, str], control_groups: Mapping[str, str],
               settings: Callable[[str], Thresholds], rounds: int = 5) -> NightPlan:
    """Screens the last of `nights`; `rounds` is what a launch of it had. Nights of another environment are not looked
    at."""
    start = environment_start([night.environment for night in nights])
    same = nights[start:]
    tables = Tables.of(same, groups, control_groups)
    committed = [settings(name) for name in tables.benchmarks]
    layout = layout_spread(tables.compared, len(tables.benchmarks))
    spread, chosen, plans = confirmations(tables.pair, tables.within, layout, rounds, committed)
    effect = np.array([one.effect or one.thresholds.effect for one in plans])
    screening = look(tables.passes, tables.controls, tables.group, tables.control_group, tables.pair, effect,
                     len(nights))
    why = screening.suspect.astype("<U8")
    notes = list(filter(None, [environment_change([night.environment for night in nights], FEWEST)]))
    for one in np.unique(tables.group):
        mine, known = tables.group == one, np.isfinite(tables.controls[-1, tables.control_group == one]).sum()
        if known < FEWEST_CONTROLS:
            why[mine] = "unclear"
            notes.append(f"{known} frozen controls of {tables.group_names[one]} were measured, too few to say what the "
                         f"machine did: all {mine.sum()} benchmarks of that group are compared by live pairs")
    suspects: list[Suspect] = []
    audited: list[Suspect] = []
    cleared: dict[str, Verdict] = {}
    turn = audits(len(nights), tables.pair)
    for b, name in enumerate(tables.benchmarks):
        age = MONTH if why[b] in CREPT else WEEK
        base = last_good(nights, name, age)
        if not why[b] or base is None:
            cleared[name] = _clear(screening, b, plans[b], base)
        if base and (why[b] or b in turn):
            thresholds = plan(committed[b], float(spread[b]), float(layout[b]), strong=why[b] in STRONG).thresholds
            suspect = Suspect(name, str(why[b]) or "audit", base, replace(thresholds, rounds=int(chosen[b])))
            (suspects if why[b] else audited).append(suspect)
    again = tuple(one.benchmark for one in suspects
                  if one.why != "new" and len(nights[-1].launches[one.benchmark]) < AGAIN)
    return NightPlan(tuple(suspects), again, tuple(audited), dict(zip(tables.benchmarks, plans, strict=True)), cleared,
                     tuple(notes))


def last_good(nights: Sequence[Measurement], benchmark: str, age: int) -> str | None:
    """Chooses the commit to compare tonight's with: the newest of at least `age` nights ago that measured the
    benchmark, not before its time was last found to be another; else the oldest since then. None where there is none,
    or it is tonight's own. Nights of another environment count: both commits run in tonight's."""
    level = max((t for t, night in enumerate(nights) if benchmark in night.changed), default=0)
    able = [t for t in range(level, len(nights) - 1) if benchmark in nights[t].launches]
    if not able:
        return None
    old = [t for t in able if t <= len(nights) - 1 - age]
    base = nights[old[-1] if old else able[0]].commit
    return base if base != nights[-1].commit else None


def lesson(suspect: Suspect, ratios: Sequence[float], verdict: Verdict) -> Comparison | None:
    """Gives what a comparison teaches; None for a change, and for too few pairs."""
    if verdict.word in ("regressed", "improved") or len(ratios) < (1 if suspect.thresholds.weight else 2):
        return None
    seen = estimate(ratios, suspect.thresholds.prior)
    return Comparison(suspect.benchmark, seen.middle, seen.error(), suspect.why == "audit")


def with_lessons(tonight: Measurement, comparisons: Sequence[tuple[Suspect, Sequence[float], Verdict]]) -> Measurement:
    """Adds what comparisons taught to tonight: suspect, log ratios and verdict of each."""
    changed = tuple(suspect.benchmark for suspect, _, verdict in comparisons
                    if verdict.word in ("regressed", "improved"))
    lessons = tuple(filter(None, (lesson(*one) for one in comparisons)))
    return replace(tonight, comparisons=(*tonight.comparisons, *lessons), changed=(*tonight.changed, *changed))


def _clear(screening: Screening, b: int, plan: Plan, base: str | None) -> Verdict:
    """Gives the verdict of what history alone clears, or of what has no other commit to be compared with."""
    excess, spread, nights = float(screening.excess[b]), float(screening.spread[b]), int(screening.nights[b])
    if nights < FEWEST or not math.isfinite(excess):
        return Verdict("inconclusive", why=f"{many(nights, 'night')} of history, {FEWEST} at least are needed, and no "
                                           "other commit to compare with")
    low, high = (math.exp(excess + side * EXCLUDED * spread) for side in (-1, 1))
    same = "" if base else "; the commit is the same as that of the last good night"
    return Verdict("ok", math.exp(excess), low, high, 0,
                   f"{100 * math.expm1(excess):+.1f} % against {many(nights, 'night')} [{100 * (low - 1):+.1f}, "
                   f"{100 * (high - 1):+.1f}]; {plan.promise}{same}", 0, plan.effect)
