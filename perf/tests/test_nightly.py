"""The nightly decision on nights made by hand: suspects, their bases, what is cleared, and what is said."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from perf.policy.thresholds import Thresholds
from perf.verdict.nightly import NightPlan, Suspect, last_good, lesson, plan_night, with_lessons
from perf.verdict.nights import Comparison, Measurement, environment_change, environment_start
from perf.verdict.verdict import Verdict, family

NAMES = [f"b{i}" for i in range(9)]
CONTROLS = [f"c{i}" for i in range(8)]
GROUPS, CONTROL_GROUPS = dict.fromkeys(NAMES, "compute"), dict.fromkeys(CONTROLS, "compute")
MACHINE = {"gpus": ["H200"], "driver": "570", "torch": "2.11.0"}


def nights(count: int = 50, spread: float = 0.004, audits: int = 60) -> list[Measurement]:
    noise = np.random.default_rng(5)

    def times(names: list[str], launches: int) -> dict[str, tuple[float, ...]]:
        return {name: tuple(1e-3 * np.exp(noise.normal(0, spread, launches))) for name in names}

    found = []
    for t in range(count):
        taught = [Comparison(NAMES[t % 9], noise.normal(0, 0.003), 0.002, True) for _ in range(2 if audits else 0)]
        found.append(Measurement(f"commit{t}", MACHINE, times(NAMES, 2), dict.fromkeys(NAMES, 0.01), times(CONTROLS, 2),
                                 tuple(taught)))
    return found


def slower(night: Measurement, by: float, names: list[str] | None = None, launches: int = 2) -> Measurement:
    return replace(night, launches={
        name: tuple(by * seconds for seconds in (*told, *told)[:launches]) if names is None or name in names else told
        for name, told in night.launches.items()})


def looked(history: list[Measurement], **options) -> NightPlan:
    return plan_night(history, GROUPS, CONTROL_GROUPS, lambda name: Thresholds(), **options)


def words(look: NightPlan) -> dict[str, str]:
    return {one.benchmark: one.why for one in look.suspects}


def test_a_quiet_night_clears_all_and_promises():
    found = looked(nights())
    assert not found.suspects
    assert not found.again
    assert set(found.cleared) == set(NAMES)
    verdict = found.cleared["b0"]
    assert verdict.word == "ok"
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1 < verdict.high < 1.05
    assert "against 30 nights [" in verdict.why
    assert "detects 5 % first night" in verdict.why
    assert verdict.certified == found.plans["b0"].effect == 0.05


def test_a_slower_benchmark_is_measured_again_and_compared_with_a_commit_of_a_week_ago():
    history = nights()
    history[-1] = slower(history[-1], 1.05, ["b3"])
    found = looked(history)
    assert words(found) == {"b3": "slower"}
    assert found.again == ("b3",)
    [suspect] = found.suspects
    assert suspect.base == "commit42"
    assert suspect.thresholds.weight > 0
    assert 0.0125 <= suspect.thresholds.floor < 0.03
    assert 3 <= suspect.thresholds.rounds <= 8
    assert "b3" not in found.cleared
    history[-1] = slower(history[-1], 1.0, ["b3"], launches=4)
    assert not looked(history).again


def test_what_only_the_week_shows_is_compared_with_a_commit_of_a_month_ago_once_a_week():
    history = nights()
    history[-7:] = [slower(night, 1.022, ["b6"]) for night in history[-7:-1]] + [slower(history[-1], 1.012, ["b6"])]
    found = looked(history)
    assert words(found) == {"b6": "week"}
    assert found.suspects[0].base == "commit19"
    assert not looked([history[0], *history]).suspects  # a night later in its turn


def test_what_all_benchmarks_and_the_controls_share_is_the_machine():
    history = nights()
    history[-1] = slower(history[-1], 1.05)
    everything = replace(history[-1], controls={name: tuple(1.05 * s for s in told)
                                                for name, told in history[-1].controls.items()})
    assert len(looked(history).suspects) == len(NAMES)
    assert not looked([*history[:-1], everything]).suspects


def test_too_few_controls_are_said_and_everything_is_compared():
    history = nights()
    history[-1] = replace(history[-1], controls=dict(list(history[-1].controls.items())[:3]))
    found = looked(history)
    assert set(words(found).values()) == {"unclear"}
    assert "3 frozen controls of compute were measured, too few" in found.notes[0]


def test_another_environment_starts_the_history_anew_and_says_so():
    history = nights()
    history[-1] = replace(slower(history[-1], 1.2), environment={**MACHINE, "torch": "2.12.0", "driver": "580"})
    found = looked(history)
    assert set(words(found).values()) == {"new"}  # not "slower"
    [note] = found.notes
    assert "(driver 570 -> 580; torch 2.11.0 -> 2.12.0)" in note
    assert {one.base for one in found.suspects} == {"commit42"}  # a commit that runs tonight, in tonight's
    assert {plan.effect for plan in found.plans.values()} == {None}


def test_environments():
    a, b = {"torch": "1"}, {"torch": "2"}
    assert [environment_start(nights) for nights in ([a], [a, a], [a, b], [a, b, b], [b, a, b])] == [0, 0, 1, 1, 2]
    assert environment_change([a, a, a], 10) is None
    assert "1 night ago (torch 1 -> 2)" in (environment_change([a, b, b], 10) or "")
    assert environment_change([a, *[b] * 11], 10) is None


def test_the_last_good_commit():
    history = nights(40)
    assert last_good(history, "b0", 7) == "commit32"
    assert last_good(history, "b0", 30) == "commit9"
    assert last_good(history[:3], "b0", 7) == "commit0"
    assert last_good(history[:1], "b0", 7) is None
    assert last_good([replace(night, commit="same") for night in history], "b0", 7) is None
    changed = [replace(night, changed=("b0",)) if night.commit == "commit36" else night for night in history]
    assert last_good(changed, "b0", 7) == "commit36"
    assert last_good(changed, "b1", 7) == "commit32"
    gone = [replace(night, launches={}) if night.commit == "commit32" else night for night in history]
    assert last_good(gone, "b0", 7) == "commit31"


def test_the_same_commit_can_not_have_become_slower():
    history = [replace(night, commit="same") for night in nights()]
    found = looked([*history[:-1], slower(history[-1], 1.2)])
    assert not found.suspects
    assert "the commit is the same" in found.cleared["b0"].why


def test_after_a_confirmed_change_the_level_is_another():
    history = nights()
    changed = [replace(slower(night, 1.1, ["b3"]), changed=("b3",) if t == 35 else ()) if t >= 35 else night
               for t, night in enumerate(history)]
    assert "b3" not in words(looked(changed))
    never_told = [replace(night, changed=()) for night in changed[:36]]
    assert words(looked(never_told))["b3"] == "slower"


def test_a_benchmark_of_few_nights_is_new():
    history = nights()
    history = [replace(night, launches={name: told for name, told in night.launches.items() if name != "b8" or t > 44})
               for t, night in enumerate(history)]
    found = looked(history)
    assert words(found) == {"b8": "new"}
    assert found.suspects[0].base == "commit45"
    assert found.plans["b8"].effect is None


def test_quiet_benchmarks_are_audited():
    found = [looked(nights(60 + extra)).audits for extra in range(3)]
    assert any(found)
    assert {one.why for audits in found for one in audits} <= {"audit"}


def test_what_a_night_records():
    suspect = Suspect("b1", "slower", "commit42", Thresholds(least_pairs=1, spread=0.01, weight=15.0, correlation=0.0))
    verdict = Verdict("ok", 1.0, 0.99, 1.01, 2, "", 0)
    kept = lesson(suspect, [0.01, -0.01], verdict)
    assert kept is not None
    assert kept.error == pytest.approx(0.01 * math.sqrt(17 / 16) / math.sqrt(2))
    assert replace(kept, error=0.0) == Comparison("b1", 0.0, 0.0, False)
    assert lesson(suspect, [0.1] * 6, replace(verdict, word="regressed")) is None
    assert lesson(suspect, [], verdict) is None
    night = with_lessons(nights(1)[0], [(suspect, [0.0], verdict), (replace(suspect, benchmark="b2"), [0.1] * 6,
                                                                    replace(verdict, word="regressed"))])
    assert night.changed == ("b2",)
    assert Measurement.from_json(night.to_json()).changed == ("b2",)
    read = Measurement.from_json(night.to_json())
    assert (read.comparisons, dict(read.environment)) == (night.comparisons, MACHINE)
    assert looked([*nights(20), read]).cleared.keys() | {"b0"} == set(NAMES)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "x": 2}'])
def test_what_is_no_night_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="not a night") as refusal:
        Measurement.from_json(text)
    assert "\n" not in str(refusal.value)


def test_a_change_across_most_benchmarks_is_one_finding():
    quiet = looked(nights()).cleared
    regressed = {name: Verdict("regressed", 1.08, 1.06, 1.10, 6, "", 0) for name in NAMES[:6]}
    [sentence] = family({**quiet, **regressed})
    assert "one finding: 6 of 9 benchmarks regressed" in sentence
    assert not family({**quiet, **dict(list(regressed.items())[:3])})
