"""Pairs one after the other, until each benchmark is decided; one test has real workers."""
from __future__ import annotations

import math
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import pytest

from perf.compare.pair import Pair
from perf.compare.pairs import HANDFUL, Case, compare
from perf.compare.side import ROOT, Side
from perf.tests import fake_sides
from perf.tests.fake_sides import SMALL, Sides, log
from perf.verdict.spread import Spread
from perf.verdict.verdict import Thresholds
from perf.workloads.workload import Workload

pytestmark = pytest.mark.slow  # starts processes

OTHER = replace(SMALL, n=64, m=64)
THIRD = replace(SMALL, n=128, m=128)
CLEAR = Thresholds(least_pairs=3, most_pairs=8)
sides = fake_sides.sides


def verdicts(base: Side, head: Side, *workloads: Workload, seconds: float = 60.0,
             thresholds: Thresholds = CLEAR,
             other: Thresholds | None = None) -> tuple[dict[str, str], dict[str, Case]]:
    """Compares by these thresholds, OTHER by others of its own if there are some."""
    found: dict[str, Case] = {}
    told = compare(workloads, base, head, "cpu", lambda w: other if other and w == OTHER else thresholds, seconds,
                   cases=found)
    return {w.id: verdict.word for w, verdict in told}, found


def test_pairs_are_made_until_each_benchmark_is_decided(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02}, {"seconds": 0.024})
    said: list[str] = []
    found: dict[str, Case] = {}
    words = [(w, verdict.word) for w, verdict in compare([SMALL, OTHER], base, head, "cpu", lambda w: CLEAR, 60,
                                                         said.append, cases=found)]
    assert words == [(SMALL, "regressed"), (OTHER, "regressed")]
    launches = len(found[SMALL.id].ratios)
    assert 3 <= launches < 8
    assert found[SMALL.id].ratios == pytest.approx([math.log(1.2)] * launches)
    assert len(found[SMALL.id].head_seconds) >= 4 * launches
    assert said[-1].startswith(f"pair {launches}, ")
    prepared = [entry for entry in log(base) if entry[1] == "prepare"]
    assert [check for *_, check, _ in prepared] == [True] * 4 + [False] * 4 * (launches - 1)  # once a side
    first = [next(name for name, kind, *_ in part if kind == "rounds") for part in _launches(log(base))]
    assert first == list(islice(cycle(["base", "head"]), launches))


def _launches(entries: list[list[Any]]) -> list[list[list[Any]]]:
    """Entries of each pair: a new one begins where the first benchmark is prepared."""
    starts = [i for i, (name, kind, n, *_) in enumerate(entries) if (kind, n) == ("prepare", SMALL.n)][::2]
    return [entries[start:end] for start, end in zip(starts, [*starts[1:], len(entries)], strict=True)]


@pytest.mark.parametrize(("base_told", "head_told", "word"), [
    ({"prepare 64": {"missing": "no"}}, {}, "new"), ({}, {"prepare 64": {"missing": "no"}}, "missing"),
    ({}, {"prepare 64": {"wrong": "no"}}, "wrong"), ({"rounds 64": "die"}, {}, "new"),
    ({}, {"rounds 64": "die"}, "wrong"), ({"prepare 64": "die"}, {"prepare 64": "die"}, "missing")])
def test_one_that_can_not_be_compared_leaves_the_others_alone(sides: Sides, base_told: dict, head_told: dict,
                                                              word: str) -> None:
    words, found = verdicts(*sides(base_told, head_told), SMALL, OTHER, THIRD)
    assert words == {SMALL.id: "ok", OTHER.id: word, THIRD.id: "ok"}
    assert not found[OTHER.id].ratios


def test_an_unfit_machine_gives_no_evidence(sides: Sides) -> None:
    words, found = verdicts(*sides({"state": {"unfit": "the GPU throttled", "imports": []}}), SMALL)
    assert words == {SMALL.id: "invalid"}
    assert not found[SMALL.id].ratios
    assert found[SMALL.id].verdict().why == "the GPU throttled"
    assert len(found[SMALL.id].unfit) == 3


def test_the_budget_is_counted_after_the_handful_that_decides(sides: Sides) -> None:
    """A change that 5 pairs call is called, however short the budget; what they leave open ends undecided."""
    words, found = verdicts(*sides({}, {"seconds": 0.024}), SMALL, seconds=0.0, thresholds=Thresholds())
    assert words == {SMALL.id: "regressed"}
    assert len(found[SMALL.id].ratios) <= HANDFUL
    words, found = verdicts(*sides({}, {"seconds": 0.0206}), SMALL, seconds=0.0,
                            thresholds=Thresholds(effect=0.0305, floor=0.03))
    assert words == {SMALL.id: "inconclusive"}
    assert len(found[SMALL.id].ratios) == HANDFUL


def test_what_counters_have_decided_takes_no_handful(sides: Sides) -> None:
    more = {"prepare": {"ready": True, "counters": {"operators": 3}, "error": 1e-6, "peak_bytes": 16}}
    words, found = verdicts(*sides({}, more), SMALL, seconds=0.0)
    assert words == {SMALL.id: "regressed"}
    assert len(found[SMALL.id].ratios) == 1


def test_a_run_that_knows_earlier_spreads_takes_fewer_pairs(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02}, {"seconds": 0.021})
    cases: dict[str, Case] = {}
    earlier = {SMALL.id: Spread(1e-6, 8.0, lag=0.0, lags=50.0, pairs=60.0)}
    told = [verdict.word for _, verdict in compare([SMALL], base, head, "cpu", lambda w: Thresholds(), 60.0,
                                                   cases=cases, earlier=earlier)]
    assert told == ["regressed"]
    assert len(cases[SMALL.id].ratios) <= 3


def test_thresholds_may_differ_by_benchmark(sides: Sides) -> None:
    coarse = Thresholds(effect=0.3, floor=0.1, least_pairs=3, most_pairs=8)
    folders = sides({"seconds": 0.02}, {"seconds": 0.0206})
    words, found = verdicts(*folders, SMALL, OTHER, other=coarse)
    assert (found[SMALL.id].thresholds, found[OTHER.id].thresholds) == (CLEAR, coarse)
    assert words[OTHER.id] == "ok"


def test_rounds_that_history_chose_are_taken(sides: Sides) -> None:
    folders = sides({"seconds": 0.02}, {"seconds": 0.02})
    _, found = verdicts(*folders, SMALL, OTHER, thresholds=replace(CLEAR, rounds=5), other=CLEAR)
    chosen, timed = (len(found[w.id].head_seconds) / len(found[w.id].ratios) for w in (SMALL, OTHER))
    assert (chosen, timed) == (8, 28)  # turns are even in number; a second for both sides, with rounds not counted


def test_breaking_off_ends_the_workers(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pair, "log_ratio", interrupt)
    with pytest.raises(KeyboardInterrupt):
        verdicts(*sides(), SMALL)


def test_a_tree_is_no_slower_than_itself() -> None:
    """Real workers, one benchmark that both can and one that neither can."""
    nowhere = replace(SMALL, backend="fa2")
    tree = Side(ROOT, "the working tree")
    words, found = verdicts(tree, tree, SMALL, nowhere, thresholds=Thresholds(least_pairs=2, most_pairs=2))
    assert words[nowhere.id] == "missing"
    assert words[SMALL.id] in ("ok", "inconclusive")
    assert found[SMALL.id].base == found[SMALL.id].head  # what is counted repeats to the last byte
    assert len(found[SMALL.id].ratios) == 2
