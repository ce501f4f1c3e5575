"""Other processes beside a pair: borne while a core is left for it."""
from __future__ import annotations

import os

import pytest

from perf.compare import pair
from perf.compare.pair import Company, choose_core, cores_allowed


class Neighbours:
    """Is a machine on which others keep so many cores busy."""

    def __init__(self, cores: float) -> None:
        self.cores, self.seconds = cores, 10.0


@pytest.mark.parametrize(("others", "allowed", "fit"), [(1.0, 2, True), (1.7, 2, True), (1.9, 2, False), (0.5, 1, True),
                                                        (0.9, 1, False), (7.0, 8, True)])
def test_company_is_borne_while_a_core_is_left(monkeypatch: pytest.MonkeyPatch, others: float, allowed: int,
                                               fit: bool) -> None:
    monkeypatch.setattr(pair, "Foreign", lambda: Neighbours(others))
    monkeypatch.setattr(pair, "cores_allowed", lambda: allowed)
    reason = Company([os.getpid()]).unfit()
    assert (reason is None) == fit
    assert fit or (f"{others} of {allowed} cores busy" in (reason or ""))


def test_the_workers_are_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "Foreign", lambda: Neighbours(0.8))
    watch = Company([os.getpid()])
    monkeypatch.setattr(watch, "_seconds", lambda: watch._spent + 5.0)  # of 10
    assert watch.cores() == pytest.approx(0.3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes can't be held to a core here")
def test_the_core_is_one_of_those_allowed() -> None:
    assert choose_core() in os.sched_getaffinity(0)
    assert cores_allowed() == len(os.sched_getaffinity(0))
