"""The worker of a side as a process: it may die, hang, or stay."""
from __future__ import annotations

import os
import time

import psutil
import pytest

from perf.compare import pair, process
from perf.compare.pair import Pair
from perf.compare.process import Died, variables
from perf.compare.side import ROOT, Side
from perf.tests import fake_sides
from perf.tests.fake_sides import SMALL, Sides, measured

sides = fake_sides.sides


@pytest.mark.slow
@pytest.mark.parametrize(("does", "reason"), [
    ("die", r"^head: its worker died \(exit status 1\): the last line$"),
    ("kill", r"^head: its worker died \(SIGKILL\)"),
    ("hang", r"^head: its worker gave no answer in \d s$")])
@pytest.mark.parametrize("kind", ["prepare", "rounds"])
def test_a_worker_that_dies_or_hangs_is_told_in_one_line(sides: Sides, monkeypatch: pytest.MonkeyPatch, kind: str,
                                                         does: str, reason: str) -> None:
    if does == "hang":
        monkeypatch.setattr(pair, "PREPARING", 3.0)
        monkeypatch.setattr(pair, "ANSWERING", 0.6)
    base, head = sides({}, {kind: does})
    with Pair(base, head, "cpu") as made:
        with pytest.raises(Died, match=reason) as error:
            measured(made)
        assert error.value.side == "head"
    if does == "hang":
        pids = map(int, (base.folder.parent / "pids").read_text().split())
        assert _gone(*pids)  # it, and what it started


@pytest.mark.slow
def test_a_worker_that_proves_its_result_may_take_longer_than_other_answers(sides: Sides,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the ceilings are measured each time, and seen here to take over a minute."""
    monkeypatch.setattr(pair, "ANSWERING", 3.0)
    with Pair(*sides({}, {"state": "slow"}), "cpu") as made:
        measured(made)


def _gone(*pids: int, seconds: float = 5.0) -> bool:
    """Waits a moment for it to go: what is killed with its parent's group need not be gone when that is."""
    end = time.monotonic() + seconds
    while left := any(_runs(pid) for pid in pids):
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return not left


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_both_dead_is_nobodys_fault(sides: Sides) -> None:
    with Pair(*sides({"prepare": "die"}, {"prepare": "die"}), "cpu") as made, pytest.raises(Died) as error:
        made.prepare(SMALL)
    assert error.value.side == "both"


@pytest.mark.slow
def test_a_worker_that_does_not_quit_is_ended(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "QUIT", 0.2)
    with Pair(*sides({"stays": True, "quit": "hang"}), "cpu") as made:
        pid = made.base.pid
    assert not _runs(pid)


def test_a_fault_is_put_into_the_head_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERF_INJECT", "clone")
    base, head = (variables(role, Side(ROOT, "the tree"), "cpu") for role in ("base", "head"))
    assert "PERF_INJECT" not in base
    assert head.pop("PERF_INJECT") == "clone"
    assert base == head
    assert base["OMP_NUM_THREADS"] == "1"
    assert base["PERF_FAMILY"] == str(os.getpid())
    assert variables("base", Side(ROOT, "the tree"), "cuda").get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")
