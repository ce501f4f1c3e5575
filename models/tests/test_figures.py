"""Figures, intervals and paired changes."""
from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.figures import Figure, compare, join


def top1(hits, name="top1"):
    return Figure(name, "points", "higher", 100.0 * np.asarray(hits))


def test_an_interval_of_a_mean_is_the_one_of_the_textbook():
    items = np.random.default_rng(1).normal(5, 2, 400)
    low, high = Figure("score", "", "higher", items).interval()
    half = 1.96 * items.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((items.mean() - half, items.mean() + half), abs=0.02)


def test_all_or_nothing_scores_seen_without_exception_leave_room_near_three_in_n():
    low, high = top1(np.ones(300)).interval()
    assert 97.5 < low < 99.5
    assert high == 100
    change = compare(top1(np.ones(300)), top1(np.ones(300)))
    assert -1.5 < change.low < -0.5
    assert change.verdict == "inside the noise"
    assert change.within(0.5) is None
    assert compare(top1(np.ones(3000)), top1(np.ones(3000))).within(0.5) is True


def test_pairing_takes_out_what_both_find_hard():
    random = np.random.default_rng(0)
    hard = random.normal(0, 10, 500)
    base = Figure("loss", "nats", "lower", hard + random.normal(0, 0.1, 500))
    new = Figure("loss", "nats", "lower", hard + 0.1 + random.normal(0, 0.1, 500))
    change = compare(base, new)
    assert change.verdict == "worse"
    assert change.high - change.low < 0.05 < base.interval()[1] - base.interval()[0]
    assert compare(new, base).verdict == "better"
    assert change.lost == pytest.approx((change.low, change.high))


@pytest.mark.parametrize(("lost", "within"), [(0, True), (20, None), (60, False)])
def test_a_budget_is_kept_broken_or_undecided(lost, within):
    base = np.ones(2000)
    new = base.copy()
    new[:lost] = 0  # 20 of 2000 is one point
    assert compare(top1(base), top1(new)).within(1.0) is within


@pytest.mark.parametrize("rate", [0.0006, 0.02])
def test_intervals_of_rare_paired_changes_hold_the_truth(rate):
    """They hold it at least as often as they claim, for 1797 items that change with `rate` in each direction."""
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        draw = random.random(1797)
        base, new = np.ones(1797), np.ones(1797)
        base[draw < rate], new[draw > 1 - rate] = 0, 0
        change = compare(top1(base), top1(new), resamples=200)
        hits += change.low <= 0 <= change.high
    assert hits >= 0.93 * 400


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_a_change_turned_round_is_its_opposite(base, data):
    new = data.draw(st.lists(st.booleans(), min_size=len(base), max_size=len(base)))
    there, back = (compare(a, b, resamples=200) for a, b in
                   ((top1(base), top1(new)), (top1(new), top1(base))))
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low <= there.difference <= there.high) or there.items < 10
    assert there.low <= there.high


def test_root_mean_and_exponential_of_mean():
    assert Figure("rmse", "", "lower", np.array([9.0, 16.0]), "root-mean").value == pytest.approx(12.5 ** 0.5)
    assert Figure("perplexity", "", "lower", np.array([1.0, 3.0]), "exp-mean").value == pytest.approx(np.exp(2))


def test_f1_of_every_resample_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    random = np.random.default_rng(2)
    items = np.stack([random.integers(0, 6, 200), random.integers(0, 8, 200)], axis=1)  # classes never labelled too
    items[:120, 1] = items[:120, 0]
    figure = Figure("f1", "points", "higher", items, "weighted-f1")
    assert figure.value == pytest.approx(100 * metrics.f1_score(*items.T, average="weighted"))
    draws = np.random.default_rng(0).integers(200, size=(2000, 200))
    values = [100 * metrics.f1_score(*items[draw].T, average="weighted") for draw in draws[:50]]
    assert figure.interval(resamples=50) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_parts_join_in_their_order():
    whole = join([{"top1": top1([1, 0])}, {"top1": top1([1])}])["top1"]
    assert whole.items.tolist() == [100, 0, 100]
    with pytest.raises(ValueError, match=r"^parts to join must have the same figures, not \['top1', 'f1'\]$"):
        join([{"top1": top1([1])}, {"f1": top1([1])}])


@pytest.mark.parametrize(("call", "line"), [
    (lambda: compare(top1([1]), top1([1, 0])), "top1: 1 and 2 items can't be paired"),
    (lambda: compare(top1([1]), top1([1], "top5")), "top1 and top5 are not one figure: name 'top1' and 'top5'"),
    (lambda: Figure("rmse", "", "lower", np.array([1.0, np.nan])), "rmse: the score of item 1 is not a finite number"),
    (lambda: Figure("rmse", "", "lower", np.array([])), "rmse: scores of shape (0,); expected ('n',), n > 0"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_change_says_itself():
    text = str(compare(top1([1] * 9 + [0]), top1([1] * 8 + [0, 0])))
    assert re.fullmatch(r"top1 90 -> 80 points: -10 \(-[\d.e+]+ to \+?-?[\d.]+, 10 items\), inside the noise", text)
