"""Clocks: what they choose, and that their readings subtract to seconds."""
from __future__ import annotations

import time

import pytest
import torch

from perf.measure import clocks
from perf.measure.clocks import CpuClock, CudaClock, CudaTimer, clock
from perf.measure.cuda_graph import Uncapturable, capture


class Sleeper:
    """Is a call that takes some time, and counts."""

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
    clocks._warm_up(call, 0.2, lambda: None)
    assert 2 <= call.made <= 20


def test_others_that_had_the_core_make_no_call_long(monkeypatch):
    """Fewer rounds would be taken by it: one of two calls took 80 ms instead of 10."""
    readings = iter([0.0, 0.0, 0.08, 1.0, 1.01])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(readings, 9.0))
    assert clocks._warm_up(lambda: None, 0.0, lambda: None) == pytest.approx(0.01)


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


def test_what_the_readings_show_of_themselves_is_taken_off(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = CudaTimer()
    timer.overhead = 3e-3
    start, end = timer(), timer()
    assert end - start == pytest.approx(2e-3)
    timer.overhead = 6e-3
    start, end = timer(), timer()
    assert end - start == 0.0  # never a negative time


def refuses(fn):
    raise Uncapturable("it waits for the GPU")


@pytest.fixture
def cuda(monkeypatch):
    """Gives a CUDA clock without a GPU: launching takes 3 ms, a flush and a call 1 ms each."""
    cuda_clock = CudaClock(torch.device("cuda"))
    monkeypatch.setattr(clocks, "_warm_up", lambda fn, longest, synchronize, renew: 1e-3)
    monkeypatch.setattr(clocks, "_host_seconds", lambda fn, synchronize: 3e-3)
    monkeypatch.setattr(cuda_clock, "_gpu_seconds", lambda before, fn, times=3: 1e-3)
    vars(cuda_clock).update(_overhead_by_events=4e-6, _overhead_by_graph=3e-6, _flush_seconds=1e-3)
    return cuda_clock


@pytest.mark.parametrize("captured", [True, False])
def test_the_flush_hides_the_launch(cuda, captured, monkeypatch):
    """A graph and a call that can't be captured get five flushes each."""
    flushed: list[int] = []
    monkeypatch.setattr(cuda, "_flush", flushed.append)
    monkeypatch.setattr(clocks, "capture", (lambda fn: fn) if captured else refuses)
    plan = cuda.prepare(lambda: None)
    assert plan.setup is not None
    plan.setup()
    assert flushed == [5]
    assert plan.iterations == 1
    assert plan.rounds == int(cuda.budget / (1e-3 + 3e-3 + 5 * 1e-3))
    assert plan.host == 3e-3


def test_new_inputs_are_written_before_each_round_and_the_flush(cuda, monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(cuda, "_flush", lambda times: order.append("flush"))
    monkeypatch.setattr(clocks, "capture", lambda fn: fn)
    plan = cuda.prepare(lambda: None, renew=lambda: order.append("renew"))
    assert plan.setup is not None
    order.clear()
    plan.setup()
    assert order == ["renew", "flush"]


def test_every_call_that_warms_up_and_every_round_finds_new_inputs():
    order: list[str] = []
    plan = CpuClock().prepare(lambda: order.append("call"), renew=lambda: order.append("renew"))
    assert order[:4] == ["renew", "call"] * 2
    assert plan.setup is not None
    order.clear()
    plan.setup()
    assert order == ["renew"]


def test_gpu_time_is_that_of_the_graph_or_says_why_not(cuda, monkeypatch):
    replayed = object()
    monkeypatch.setattr(clocks, "capture", lambda fn: replayed)
    plan = cuda.prepare(lambda: None)
    assert (plan.call, plan.clock, plan.no_graph) == (replayed, "cuda graph, L2 flushed", None)
    assert cuda.timer.overhead == 3e-6
    monkeypatch.setattr(clocks, "capture", refuses)
    call = Sleeper(0)
    plan = cuda.prepare(call)
    assert (plan.call, plan.clock, plan.no_graph) == (call, "cuda events, L2 flushed", "it waits for the GPU")
    assert cuda.timer.overhead == 4e-6
    monkeypatch.setattr(clocks, "capture", lambda fn: pytest.fail("a graph was not asked for"))
    assert cuda.prepare(call, graph=False).clock == "cuda events, L2 flushed"


def test_the_clock_is_pytest_benchmark_s_timer_as_it_is(benchmark):
    """`pedantic` takes the plan and the timer unchanged; asv's use is tested with its suite."""
    made, call = CpuClock(), Sleeper(0.002)
    plan = made.prepare(call)
    benchmark._timer = made.timer
    benchmark.pedantic(plan.call, setup=plan.setup, rounds=4, iterations=plan.iterations)
    if benchmark.enabled:
        assert benchmark.stats.stats.median == pytest.approx(0.002, rel=0.5)
    assert call.made >= 3


def test_a_clock_touches_no_gpu_before_it_is_used():
    assert CudaClock(torch.device("cuda")).timer.__name__ == "cuda_events"
    assert not torch.cuda.is_initialized() or torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@needs_gpu
def test_events_agree_with_the_wall_clock():
    """The call runs on the default stream, where no graph is captured."""
    x = torch.randn(8192, 8192, device="cuda")
    cuda_clock = CudaClock(torch.device("cuda"))
    cuda_clock.prepare(lambda: x @ x)
    start, wall = cuda_clock.timer(), time.perf_counter()
    for _ in range(10):
        x @ x
    gpu = cuda_clock.timer() - start
    assert gpu == pytest.approx(time.perf_counter() - wall, rel=0.1)


@pytest.fixture
def stream():
    """Gives a stream of its own: the default one can't be captured."""
    with torch.cuda.stream(torch.cuda.Stream()):
        yield


@needs_gpu
def test_a_graph_gives_what_the_call_gives(stream):
    x = torch.randn(64, 64, device="cuda")
    replay = capture(lambda: x @ x)
    x.copy_(torch.randn_like(x))
    result = replay()
    torch.cuda.synchronize()
    assert torch.equal(result, x @ x)


@needs_gpu
def test_a_call_that_waits_for_the_gpu_is_timed_by_events_and_says_why(stream):
    x = torch.randn(64, device="cuda")
    plan = CudaClock(torch.device("cuda")).prepare(lambda: x.sum().item())
    assert plan.clock == CudaClock.by_events
    assert plan.no_graph is not None
    assert "CUDA captures no graph of it: " in plan.no_graph
    assert (x + x).sum().isfinite()  # the stream is whole again


@needs_gpu
def test_the_default_stream_is_refused():
    with torch.cuda.stream(torch.cuda.default_stream()), pytest.raises(Uncapturable, match="set_stream"):
        capture(lambda: None)
