"""Peak bytes of a call, and what is free."""
from __future__ import annotations

import pytest
import torch

from perf.measure import foreign, memory
from perf.measure.foreign import Foreign

CPU = torch.device("cpu")
MEGABYTE = 2 ** 20


def test_the_peak_counts_what_stands_at_one_time():
    x = torch.zeros(MEGABYTE // 4)

    def call():
        y = x + 1  # 1 MB
        y = y + 1  # 2 MB, then 1
        return y + 1  # 2 MB

    assert memory.peak_bytes(call, CPU) == pytest.approx(2 * MEGABYTE, abs=100)  # and the numbers 1


def test_what_a_call_returns_is_part_of_it():
    assert memory.peak_bytes(lambda: torch.zeros(3, MEGABYTE // 4), CPU) == 3 * MEGABYTE


def test_a_call_that_allocates_nothing():
    x = torch.zeros(4)
    assert memory.peak_bytes(lambda: x.add_(1), CPU) < 100


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("active_file 7\ninactive_file 500\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_bytes(CPU) == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(CPU) > MEGABYTE


def test_no_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert memory.free_bytes(CPU) > MEGABYTE


def test_foreign_processes_are_told_from_this_one(monkeypatch):
    monkeypatch.setattr(foreign.psutil, "cpu_count", lambda: 2)
    readings = iter([(10.0, 4.0, 100.0), (13.0, 6.0, 104.0)])  # all, own, in all: 2 s on 2 cores, 1 s not ours
    monkeypatch.setattr(foreign, "_seconds", lambda: next(readings))
    assert Foreign().cores == pytest.approx(0.5)


def test_company_too_short_to_be_seen_is_none(monkeypatch):
    readings = iter([(10.0, 4.0, 100.0), (10.02, 4.0, 100.1)])
    monkeypatch.setattr(foreign, "_seconds", lambda: next(readings))
    assert Foreign().cores == 0


def test_the_cpu_times_grow():
    everyone, own, total = foreign._seconds()
    sum(range(10 ** 6))
    later = foreign._seconds()
    assert later[0] >= everyone
    assert later[1] >= own
    assert later[2] >= total
