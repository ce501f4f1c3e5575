"""Holds how much is timed: rounds of a turn, turns of a pair, pairs of a benchmark."""
from __future__ import annotations

import pytest

from perf.compare import pair
from perf.compare.pair import schedule
from perf.compare.pairs import Case
from perf.tests.fake_sides import SMALL
from perf.verdict.verdict import Side, Thresholds


@pytest.mark.parametrize(("seconds", "rounds", "of_turn", "turns"), [
    (0.0002, None, 50, 64), (0.01, None, 2, 26), (0.002, None, 5, 64), (0.1, None, 1, 8), (3.0, None, 1, 4),
    (1e-5, None, 1000, 64), (0.02, 10, 2, 6), (0.001, 10, 10, 4)])
def test_rounds_suit_the_call(seconds: float, rounds: int | None, of_turn: int, turns: int) -> None:
    assert schedule(seconds, rounds) == (of_turn, turns)
    assert rounds or seconds > 0.1 or 2 * of_turn * turns * seconds <= 1.3 * pair.SECONDS["cpu"]
    of_turn, turns = schedule(seconds, None, "cuda")
    assert rounds or seconds > 0.02 or 2 * of_turn * turns * seconds <= 1.5 * pair.SECONDS["cuda"]


def test_what_alternates_from_turn_to_turn_cancels() -> None:
    """A side that has the second of two turns in a row finds its caches warm; the other one a bad turn."""
    alternating = [0.05 + way * 0.08 for way in (1, -1)] * 7
    assert pair._middle(alternating) == pytest.approx(0.05)
    assert pair._middle([2.3, 2.3, 2.3, *alternating[3:]]) == pytest.approx(0.05)


def test_where_counters_have_decided_six_pairs_tell_how_much() -> None:
    """A busy machine took 24 pairs to narrow the ratio, when the peak memory had said it after one."""
    patient = Thresholds(least_pairs=3, most_pairs=64)
    ratios = [0.3, -0.1, 0.2, 0.0, 0.25, -0.05]
    same, larger = Side({"operators": 3}, 1e-6, 1000), Side({"operators": 3}, 1e-6, 2000)
    def case(head: Side, ratios: list[float]) -> Case:
        return Case(patient, same, head, ratios, workload=SMALL, checked=True)

    assert case(larger, ratios).done
    assert not case(larger, ratios[:5]).done
    assert not case(same, ratios).done
    assert case(larger, ratios).verdict().word == "regressed"
    slower_by_launches = Side({"operators": 4}, 1e-6, 1000)  # forgiven where the time improves, so time has to tell
    assert not case(slower_by_launches, ratios).done


@pytest.mark.parametrize(("peak", "word"), [(10, "skipped"), (20, "regressed")])
def test_what_fits_once_and_not_twice_is_skipped_unless_it_grew(peak: int, word: str) -> None:
    base, head = (Side({}, 1e-3, taken, missing="does not fit") for taken in (10, peak))
    case = Case(Thresholds(), base, head, workload=SMALL, checked=True)
    assert case.done
    assert case.row(case.verdict()).word == word
