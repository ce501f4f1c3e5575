"""The host: company, frequency, and the cores that are left."""
from __future__ import annotations

from typing import Any

import pytest

from perf.measure import host
from perf.measure.host import Foreign, HostReader, spare_cores


def test_the_frequency_is_the_median_of_the_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "FREQUENCY", tmp_path / "scaling_cur_freq")
    reader = HostReader()
    reader.sample()
    assert reader.read().cpu_mhz is None
    for kilohertz in (2_400_000, 3_000_000, 3_100_000):
        host.FREQUENCY.write_text(f"{kilohertz}\n")
        reader.sample()
    assert reader.read().to_json()["cpu_mhz"] == 3000.0


def test_foreign_processes_are_told_from_this_one(monkeypatch):
    times = iter([(10.0, 4.0), (13.0, 6.0)])  # of all processes, of this one: 1 s is not ours
    monkeypatch.setattr(host, "_seconds", lambda cores: next(times))
    monkeypatch.setattr(host.time, "monotonic", iter([100.0, 102.0]).__next__)
    assert Foreign().cores == pytest.approx(0.5)


def test_company_too_short_to_be_seen_is_none(monkeypatch):
    times = iter([(10.0, 4.0), (10.02, 4.0)])
    monkeypatch.setattr(host, "_seconds", lambda cores: next(times))
    assert Foreign().cores == 0


def test_only_the_cores_that_this_process_may_use_count(monkeypatch):
    def core(user: float) -> Any:
        return type("Times", (), {"user": user, "system": 1.0, "idle": 99.0, "iowait": 7.0, "steal": 0.5})()

    monkeypatch.setattr(host.psutil, "cpu_times", lambda percpu: [core(1.0), core(2.0), core(4.0)])
    assert host._seconds(frozenset({1}))[0] == pytest.approx(3.5)
    assert host._seconds(frozenset({0, 1, 2}))[0] == pytest.approx(11.5)


def test_the_cpu_times_grow():
    everyone, own = host._seconds(host._own_cores())
    sum(range(10 ** 6))
    later = host._seconds(host._own_cores())
    assert later[0] >= everyone
    assert later[1] >= own


def test_two_hardware_threads_are_one_spare_core(monkeypatch):
    monkeypatch.setattr(host, "_own_cores", lambda: frozenset(range(16)))
    monkeypatch.setattr(host.psutil, "cpu_count", lambda logical=True: 32 if logical else 16)
    assert spare_cores(threads=8) == 0
    assert spare_cores(threads=2) == 6
