"""Where the time went: purposes within one another are counted once."""
from __future__ import annotations

import re
import time

import pytest

from perf.spending import Spending


def test_an_inner_purpose_is_not_the_outer_one_s():
    spending = Spending()
    with spending.on("checks"):
        time.sleep(0.02)
        with spending.on("timing"):
            time.sleep(0.05)
        time.sleep(0.01)
    with spending.on("timing"):
        time.sleep(0.01)
    assert spending.seconds["checks"] == pytest.approx(0.03, abs=0.02)
    assert spending.seconds["timing"] == pytest.approx(0.06, abs=0.02)
    assert sum(spending.seconds.values()) <= spending.total


def test_the_line_adds_up():
    spending = Spending()
    with spending.on("timing"):
        time.sleep(0.3)
    time.sleep(0.2)
    line = spending.line()
    total, *parts = (float(x) for x in re.findall(r"([\d.]+) s", line))
    timing = float(re.findall(r"timing ([\d.]+) s", line)[0])
    assert total == pytest.approx(sum(parts), abs=0.16)
    assert timing < total
    share = re.search(r"(\d+)% of it", line)
    assert share is not None
    assert int(share[1]) == pytest.approx(100 * timing / total, abs=15)


def test_a_failure_within_is_counted_too():
    spending = Spending()
    with pytest.raises(ValueError, match="broken"), spending.on("checks"):
        raise ValueError("broken")
    assert "checks" in spending.seconds
