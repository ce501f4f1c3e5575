"""Pairs that are started one ahead."""
from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from perf.compare.launcher import Launcher
from perf.compare.pair import Pair
from perf.tests import fake_sides
from perf.tests.fake_sides import Sides, measured

pytestmark = pytest.mark.slow  # starts processes

sides = fake_sides.sides


def test_with_cores_to_spare_the_next_pair_waits_while_one_is_timed(sides: Sides) -> None:
    base, head = sides()
    started = []
    with Launcher(base, head, "cpu", ahead=True) as launcher:
        for head_first in (False, True, False):
            with launcher.pair(head_first=head_first) as made:
                assert made.head_first is head_first
                assert [made.base.side, made.head.side] == ["base", "head"]
                waiting = launcher._waiting
                assert waiting is not None
                pids = [made.base.pid, made.head.pid, waiting.base.pid, waiting.head.pid]
                assert all(psutil.pid_exists(pid) for pid in pids)
                measured(made, rounds=4)
            started.append(pids)
    assert [late[:2] for late in started[1:]] == [early[2:] for early in started[:-1]]  # that it waited is who serves
    assert not any(psutil.pid_exists(pid) for pids in started for pid in pids)


def test_what_a_pair_had_to_import_a_later_one_begins_with(sides: Sides) -> None:
    begin = []
    with Launcher(*sides(), "cpu", ahead=True) as launcher:
        for _ in range(3):
            with launcher.pair(head_first=False) as made:
                begin += [psutil.Process(process.pid).cmdline()[4:] for process in (made.base, made.head)]
                measured(made, rounds=4)
    assert begin == [[]] * 4 + [["json"]] * 2  # the second was started with the first


def test_a_pair_goes_with_the_one_that_can_not_be_started(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(*sides(), "cpu", ahead=True)
    started = [launcher._started()]

    def next_one() -> Pair:
        if not started:
            raise OSError("no more processes")
        return started.pop()

    monkeypatch.setattr(launcher, "_started", next_one)
    with pytest.raises(OSError, match="no more"), launcher:
        launcher.pair(head_first=False)


def test_a_cpu_has_nobody_waiting_beside_the_pair_that_is_timed(sides: Sides) -> None:
    with Launcher(*sides(), "cpu") as launcher, launcher.pair(head_first=False):
        assert launcher._waiting is None


@pytest.mark.parametrize(("device", "cores", "ahead"), [("cuda", 6, True), ("cuda", 5, False), ("cpu", 64, False)])
def test_one_waits_where_it_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cores: int,
                                          ahead: bool) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Launcher(tmp_path, tmp_path, device).ahead is ahead
