"""A launch pair: two workers that take turns, and what the two of them say."""
from __future__ import annotations

import math
from itertools import pairwise

import pytest

from perf.compare import pair
from perf.compare.pair import Pair
from perf.compare.process import Died
from perf.tests import fake_sides
from perf.tests.fake_sides import SMALL, Sides, log, measured

pytestmark = pytest.mark.slow  # starts processes

sides = fake_sides.sides


@pytest.mark.parametrize("head_first", [False, True])
def test_turns_go_abba_and_never_at_the_same_time(sides: Sides, head_first: bool) -> None:
    base, head = sides()
    with Pair(base, head, "cpu", head_first=head_first) as made:
        measured(made, rounds=4)
    turns = [entry for entry in log(base) if entry[1] == "rounds"]
    order = "BAABBAAB" if head_first else "ABBAABBA"
    assert [name for name, *_ in turns] == [{"A": "base", "B": "head"}[side] for side in order]
    timed = [entry for entry in log(base) if entry[1] in ("plan", "rounds")]
    assert all(before[4] <= after[3] for before, after in pairwise(timed))


def test_both_sides_are_timed_by_the_same_clock(sides: Sides) -> None:
    """A call that can't be captured is launched; the other side's graph would lack what launching takes."""
    base, head = sides(head={"clock": "events"})
    with Pair(base, head, "cpu") as made:
        measured(made)
    planned = [(side, answer["clock"]) for side, kind, *_, answer in log(base) if kind == "plan"]
    assert planned == [("base", "graph"), ("head", "events"), ("base", "events"), ("head", "events")]


def test_a_drift_of_the_machine_is_no_difference(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02, "drift": 0.02}, {"seconds": 0.021, "drift": 0.02})
    with Pair(base, head, "cpu") as made:
        ratio = measured(made, rounds=20)
    assert ratio == pytest.approx(math.log(1.05), abs=0.002)
    assert len(made.times.base) == len(made.times.head) == 20


def test_a_few_disturbed_turns_are_no_difference(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02}, {"seconds": 0.021, "disturbed": [0, 1, 2, 3, 4]})
    with Pair(base, head, "cpu") as made:
        assert measured(made, rounds=28) == pytest.approx(math.log(1.05))


def test_turns_that_take_far_longer_are_left_out(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other work a round takes longer than was planned, since the plan is by the fewest seconds."""
    monkeypatch.setattr(pair, "LATE", 0.0)
    with Pair(*sides(), "cpu") as made:
        measured(made)
        assert len(made.times.base) == len(made.times.head) == 8  # four turns of two
        measured(made, rounds=20)
        assert len(made.times.base) == 20


def test_what_a_side_says_of_itself(sides: Sides) -> None:
    base, head = sides({"prepare": {"missing": "no such variant"}}, {"prepare": {"wrong": "out 0.5 > 0.1"}})
    with Pair(base, head, "cpu") as made:
        old, new = made.prepare(SMALL)
    assert (old.missing, new.wrong) == ("no such variant", "out 0.5 > 0.1")
    with Pair(*sides(), "cpu") as made:
        old, new = made.prepare(SMALL)
    assert old == new
    assert old.counters == {"operators": 3}
    assert (old.error, old.peak_bytes, old.missing, old.wrong) == (1e-6, 8, None, None)


def test_what_fails_on_the_head_alone_is_wrong_and_otherwise_missing(sides: Sides) -> None:
    failed = {"prepare": {"failed": "TypeError: unexpected keyword"}}
    for base_told, head_told in ((failed, {}), ({}, failed), (failed, failed)):
        with Pair(*sides(base_told, head_told), "cpu") as made:
            base, head = made.prepare(SMALL)
        assert bool(base.missing) == bool(base_told)
        assert bool(head.wrong) == (bool(head_told) and not base_told)
        assert bool(head.missing) == bool(head_told and base_told)


FULL = {"missing": "softmax:eager: does not fit: needs 9 GB, 8 GB are free"}


@pytest.mark.parametrize(("base_told", "head_told", "missing", "alone"), [
    ([], [FULL], [False, False], [True, True]),  # in the way of each other while they were checked
    ([FULL], [FULL], [False, False], [True, True]),
    ([], [FULL, FULL], [False, True], [True, False]), ([FULL, FULL], [], [True, False], [False, True]),
    ([FULL, None, FULL], [], [True, True], [True, True])])  # not both at once
def test_what_does_not_fit_is_tried_without_the_other_side(sides: Sides, base_told: list, head_told: list,
                                                           missing: list[bool], alone: list[bool]) -> None:
    with Pair(*sides({"prepare": base_told}, {"prepare": head_told}), "cpu") as made:
        found = made.prepare(SMALL)
    assert [bool(side.missing) for side in found] == missing
    assert not any(side.wrong for side in found)
    assert [bool(side.counters) for side in found] == alone  # checked where it fits, timed or not


@pytest.mark.parametrize(("kind", "answer", "side"), [
    ("plan", FULL, "both"), ("rounds", FULL, "both"), ("rounds", {"failed": "RuntimeError: it broke"}, "head")])
def test_what_can_not_go_on_is_told_and_no_time(sides: Sides, kind: str, answer: dict, side: str) -> None:
    with Pair(*sides({}, {kind: answer}), "cpu") as made, pytest.raises(Died) as error:
        measured(made)
    assert error.value.side == side
    assert error.value.reason in answer.values()
