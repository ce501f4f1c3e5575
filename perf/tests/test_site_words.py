"""Figures of the front page in words, and a line that shows how they went."""
from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.web.site.parts import HEIGHT, WIDTH, change, rate, sparkline


@pytest.mark.parametrize(("value", "said"), [
    (12.34, "12.3"), (950, "950"), (1234, "1.23 k"), (2.5e6, "2.50 M"), (3e9, "3.00 G"), (999_999, "1.00 M")])
def test_rates(value, said):
    assert rate(value) == said


@pytest.mark.parametrize(("ratio", "said"), [
    (1.072, "+7.2%"), (0.5, "-50.0%"), (1.0, "0.0%"), (11.0, "11x"), (2.0, "2x")])
def test_changes(ratio, said):
    assert change(ratio) == said


def points(values: Sequence[float]) -> list[tuple[float, float]]:
    """Reads the points of the values' line."""
    (drawn,) = re.findall(r'points="([^"]*)"', sparkline(values) or "")
    return [(float(x), float(y)) for x, y in (point.split(",") for point in drawn.split())]


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=100))
def test_sparklines_stay_in_their_box(values):
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(values))


def test_a_small_wobble_is_drawn_small():
    def height(*values):
        ys = [y for _, y in points(values)]
        return max(ys) - min(ys)

    assert height(1.0, 1.01, 1.0) < 1
    assert height(1.0, 1.4, 1.4) > 10
    assert sparkline([1.0]) is None
