"""Counts purposes within one another once."""
from __future__ import annotations

import pytest

from perf.run import spending
from perf.run.spending import Spending


@pytest.fixture
def sleep(monkeypatch):
    """Gives a clock that only this moves."""
    now = [100.0]
    monkeypatch.setattr(spending.time, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def test_an_inner_purpose_is_not_the_outer_one_s(sleep):
    spent = Spending()
    with spent.on("checks"):
        sleep(2)
        with spent.on("timing"):
            sleep(5)
        sleep(1)
    with spent.on("timing"):
        sleep(1)
    assert spent.seconds == pytest.approx({"checks": 3, "timing": 6})
    assert spent.total == pytest.approx(9)


def test_the_line_adds_up(sleep):
    spent = Spending()
    with spent.on("timing"):
        sleep(6)
    with spent.on("references"):
        sleep(3)
    sleep(1)
    assert spent.line() == "10.0 s: timing 6.0 s, references 3.0 s, the rest 1.0 s; 60% of it measured"


def test_a_failure_within_is_counted_too(sleep):
    spent = Spending()

    def fail() -> None:
        with spent.on("checks"):
            sleep(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert spent.seconds == {"checks": 4}
