"""The screen of one night on histories made by hand."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.verdict.screen import (
    BASELINE,
    EXCLUDED,
    FEWEST,
    TENTHS,
    WEEK,
    WINDOW,
    common_mode,
    figures,
    robust_spread,
    screen,
    without_common_mode,
)

SPREAD = 0.01


def nights(count: int = WINDOW, spread: float = SPREAD) -> np.ndarray:
    """Makes (nights, 1) around 0, whose 10th and 90th percentile are exactly those of this spread over any 30
    nights."""
    return np.resize([0.0, *(spread * TENTHS / 2 * sign for sign in (-1, 1)), 0.0, 0.0], count)[:, None]


def suspect(history: np.ndarray, tonight: float, **options) -> str:
    result = np.vstack([history[:-1], np.full((1, history.shape[1]), tonight)])
    return str(screen(result, options.pop("effect", 0.05), **options).suspect[0])


def test_the_spread_is_that_of_the_middle_nights():
    assert robust_spread(nights(30))[0] == pytest.approx(SPREAD)
    wild = nights(30)
    wild[4], wild[9] = 5.0, -5.0
    assert robust_spread(wild)[0] == pytest.approx(SPREAD)


@pytest.mark.parametrize(("tonight", "word"), [
    (0.0, ""), (0.015, ""), (np.log(1.05) - EXCLUDED * SPREAD + 1e-6, "unclear"), (3 * SPREAD + 1e-6, "slower"),
    (0.2, "slower"), (-3 * SPREAD - 1e-6, "faster"), (-0.01, "")])
def test_words(tonight, word):
    assert suspect(nights(), tonight) == word


def test_a_spread_that_hides_the_change_is_always_unclear():
    assert suspect(nights(spread=0.02), 0.0) == "unclear"
    assert suspect(nights(spread=0.02), 0.0, effect=0.10) == ""


def test_too_few_nights_are_new():
    assert suspect(nights(FEWEST), 0.0) == "new"
    assert suspect(nights(FEWEST + 1), 0.0) == ""


def test_what_was_not_measured_tonight_is_no_suspect():
    assert suspect(nights(), np.nan) == ""


def test_a_week_above_the_month_before():
    """1.7 % over a week: 4 standard errors of 1 % / sqrt(7), and below what one night would show."""
    history = nights()
    history[-WEEK:] = 0.017
    assert suspect(history, 0.016) == "week"
    assert suspect(history, 0.016, due=np.array([False])) != "week"
    history[-WEEK:] = 0.010  # 30 % of 5 % is not passed
    assert suspect(history, 0.010) == ""


def test_a_creep_of_a_month():
    """0.06 % a night: 1.1 % against the month before it on average, 2.2 % against a month ago."""
    creep = nights(spread=0.005) + np.linspace(0, 0.0006 * WINDOW, WINDOW)[:, None]
    assert suspect(creep, float(creep[-1, 0])) == "month"


def test_more_launches_tonight_exclude_more():
    """A pair of 2 % has launches of 1.4 %, and half of their variance is gone from the mean of four."""
    history, pair = nights(spread=0.012), np.array([0.02])
    tonight = float(np.log(1.05)) - EXCLUDED * 0.0115
    assert suspect(history, tonight, pair=pair, launches=2) == "unclear"
    assert suspect(history, tonight, pair=pair, launches=4) == ""


def test_the_controls_take_off_what_all_have_in_common():
    noise = np.random.default_rng(1)
    machine = noise.normal(0, 0.05, WINDOW)
    own = noise.normal(0, 0.002, (WINDOW, 6))
    controls = machine[:, None] + noise.normal(0, 0.001, (WINDOW, 8)) + np.arange(8)
    group = np.zeros(6, int)
    left = without_common_mode(own + machine[:, None], group, controls, np.zeros(8, int))
    assert np.allclose(left - np.median(left, axis=0), own - np.median(own, axis=0), atol=0.003)
    assert robust_spread(left).max() < 0.004 < robust_spread(own + machine[:, None]).min()


def test_each_group_has_its_own_machine():
    controls = np.zeros((20, 8))
    controls[-1, 4:] = 0.1
    group, control_group = np.array([0, 1]), np.repeat([0, 1], 4)
    assert without_common_mode(np.zeros((20, 2)), group, controls, control_group)[-1] == pytest.approx([0, -0.1])


def test_a_control_that_broke_changes_nothing_and_three_are_too_few():
    controls = np.zeros((20, 8))
    controls[-1, 0] = 3.0
    assert common_mode(controls)[-1] == 0
    controls[-1, :5] = np.nan
    assert np.isnan(common_mode(controls)[-1])


def test_a_spike_of_one_launch_is_left_out_and_a_slower_night_is_not():
    pair = np.array([0.01])
    passes = np.array([[[0.0, 0.2, np.nan, np.nan]], [[0.1, 0.11, np.nan, np.nan]], [[0.0, 0.01, 0.3, 0.02]]])
    assert figures(passes, pair)[:, 0] == pytest.approx([0.0, 0.105, 0.01])


@settings(deadline=None, max_examples=50)
@given(st.floats(-1, 1), st.integers(0, 1000))
def test_the_unit_of_time_tells_nothing(shift, seed):
    history = np.random.default_rng(seed).normal(0, 0.01, (WINDOW, 20))
    one, other = screen(history, 0.05), screen(history + shift, 0.05)
    assert (one.suspect == other.suspect).all()
    assert one.excess == pytest.approx(other.excess, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.001, 0.3), st.integers(0, 1000))
def test_slower_is_never_less_suspect(more, seed):
    history = np.random.default_rng(seed).normal(0, 0.01, (BASELINE + 1, 20))
    before = screen(history, 0.05).suspect
    history[-1] += more
    after = screen(history, 0.05).suspect
    assert all(word not in ("", "faster") for word, was in zip(after, before, strict=True)
               if was in ("slower", "unclear"))
