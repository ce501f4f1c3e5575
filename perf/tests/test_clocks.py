"""Clocks: what they choose, and that their readings subtract to seconds."""
from __future__ import annotations

import time

import pytest
import torch

from perf.measure import clocks
from perf.measure.clocks import CpuClock, CudaClock, CudaTimer, clock


class Sleeper:
    """A call that takes some time, and counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.made = seconds, 0

    def __call__(self) -> None:
        self.made += 1
        time.sleep(self.seconds)


def test_the_cpu_timer_measures_seconds():
    assert isinstance(clock(torch.device("cpu")), CpuClock)
    timer = CpuClock().timer
    start = timer()
    time.sleep(0.01)
    assert 0.01 <= timer() - start < 1


def test_a_short_call_is_repeated_within_a_round():
    plan = CpuClock().prepare(lambda: None)
    assert plan.iterations > 100
    assert plan.rounds == 100
    assert plan.setup is None


def test_a_long_call_gets_few_rounds():
    call = Sleeper(0.25)
    plan = CpuClock().prepare(call)
    assert (plan.rounds, plan.iterations) == (3, 1)
    assert call.made == 2


def test_warming_up_ends_when_calls_agree():
    call = Sleeper(0.01)
    clocks._warm_up(call, lambda: None)
    assert 2 <= call.made <= 20


def test_the_threads_are_stated():
    assert f"{torch.get_num_threads()} threads" in CpuClock().name


class Event:
    """Stands in for a CUDA event: the third one is 5 ms after the second."""

    made = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.made += 1
        self.at = 5.0 * Event.made

    def synchronize(self):
        self.waited = True

    def elapsed_time(self, later):
        assert later.waited
        return later.at - self.at


def test_a_cuda_reading_waits_only_when_subtracted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = CudaTimer()
    start, end = timer(), timer()
    assert not hasattr(end.event, "waited")
    assert end - start == pytest.approx(5e-3)


def test_the_flush_hides_the_launch(monkeypatch):
    """Launching takes 3 ms, one flush 1 ms: five of them."""
    made = CudaClock(torch.device("cuda"))
    monkeypatch.setattr(clocks, "_warm_up", lambda fn, synchronize: 1e-3)
    monkeypatch.setattr(clocks, "_host_seconds", lambda fn, synchronize: 3e-3)
    monkeypatch.setattr(made, "_gpu_seconds", lambda before, fn: 1e-3)
    flushed: list[int] = []
    monkeypatch.setattr(made, "_flush", flushed.append)
    plan = made.prepare(lambda: None)
    assert plan.setup is not None
    plan.setup()
    assert flushed == [5]
    assert plan.iterations == 1
    assert plan.rounds == int(made.budget / (1e-3 + 3e-3 + 5 * 1e-3))


def test_a_clock_touches_no_gpu_before_it_is_used():
    assert CudaClock(torch.device("cuda")).timer.__name__ == "cuda_events"
    assert not torch.cuda.is_initialized() or torch.cuda.is_available()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_events_agree_with_the_wall_clock():
    x = torch.randn(8192, 8192, device="cuda")
    made = CudaClock(torch.device("cuda"))
    made.prepare(lambda: x @ x)
    start, wall = made.timer(), time.perf_counter()
    for _ in range(10):
        x @ x
    gpu = made.timer() - start
    assert gpu == pytest.approx(time.perf_counter() - wall, rel=0.1)
