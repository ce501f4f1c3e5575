"""The steps of the front page: what went up in the history and stayed up."""
from __future__ import annotations

import re
from dataclasses import replace

import pytest

from perf.tests import front_page, published
from perf.web.site import steps

tree, site, shown = front_page.tree, front_page.site, front_page.shown


def test_the_step_of_the_history(shown, tree):
    _, hashes = tree
    result = re.sub(r"\s+", " ", shown.sections["steps"])
    assert result.count("fa2: softmax forward, causal, 16 heads x 128, bf16, n 2K, batch 8") == 1
    slow, before = hashes[published.SLOW_FROM][:8], hashes[published.SLOW_FROM - 1][:8]
    assert f"time {slow} after {before} " in result
    assert "+40.5% NVIDIA H200, torch 2.11.0, python 3.12" in result
    assert re.findall(r"[-+]\d+\.\d%", result) == ["+40.5%"]


def made_up(tree, values, figure="time_call"):
    """Returns a row whose line of `figure` has these values."""
    row = next(row for row in front_page.rows(tree[0]) if row.workload.bare)
    first = row.lines["time_call"][0]
    line = [replace(first, value=value, commit=f"{number:040d}", figure=figure) for number, value in enumerate(values)]
    return replace(row, lines={"time_call": row.lines["time_call"], figure: line})


def test_larger_steps_come_first_and_those_down_last(tree):
    rows = [made_up(tree, [1.0] * 8 + [ratio] * 8) for ratio in (1.2, 0.8, 3.0, 0.03, 1.5)]
    found = steps.steps(rows)
    assert [step.ratio for step in found] == pytest.approx([3.0, 1.5, 1.2, 0.03, 0.8])
    assert steps.ups(found) == found[:3]
    outcome = front_page.read(rows=rows, places={("", ""): rows[0].place}, steps=found)
    assert re.findall(r"[-+]\d+\.\d%|3x", outcome.sections["steps"]) == ["3x", "+50.0%", "+20.0%", "-97.0%", "-20.0%"]
    assert "3 steps up in the history, 2 down" in re.sub(r"\s+", " ", outcome.sections["summary"])


def test_what_came_back_is_no_step(tree):
    def found(values, figure="time_call"):
        return [(step.before[-2:], step.after[-2:], round(step.ratio, 2), step.nights)
                for step in steps.steps([made_up(tree, values, figure)]) if step.figure == figure]

    assert found([1.0] * 8 + [1.5] * 8) == [("07", "08", 1.5, 0)]
    assert found([1.0] * 8 + [1.5] * 8 + [1.0] * 8) == []
    assert found([1.5] * 8 + [1.0] * 8) == [("07", "08", 0.67, 0)]
    assert found([1.5] * 8 + [1.0] * 8 + [1.5] * 8) == [("15", "16", 1.5, 0)]
    assert found([1.5] * 8 + [1.0] * 8 + [1.2] * 8 + [0.9] * 8) == [("07", "08", 0.67, 0), ("23", "24", 0.75, 0)]
    assert found([1.0] * 16) == []
    assert found([3] * 8 + [4] * 8, "track_launches") == [("07", "08", 1.33, 0)]


def test_a_creep_is_told_as_one(tree, monkeypatch):
    monkeypatch.setattr(steps.drift, "steps", lambda values: [])
    row = made_up(tree, [(1 + 8e-4 * max(0, night - 60)) * (1 + 0.001 * (-1) ** night) for night in range(100)])
    (result,) = steps.steps([row])
    assert (result.before, result.after, result.nights) == ("", "", 30)
    outcome = front_page.read(rows=[row], places={("", ""): row.place}, steps=[result])
    assert "a creep over the last 30" in outcome.sections["steps"]
