"""Rates: what is copied and multiplied, how often, and how it becomes bytes/s and FLOP/s."""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.measure import rates
from perf.measure.clocks import CpuClock

CPU = torch.device("cpu")


class Clock:
    """Is a clock on which the nth prepared call takes `seconds[n]` the first time, and then ever longer."""

    def __init__(self, *seconds: float, iterations: int = 1) -> None:
        self.seconds, self.iterations = list(seconds), iterations
        self.prepared: list[Any] = []
        self.calls = self.setups = 0
        self.now = 0.0
        self.readings = itertools.count()

    def prepare(self, fn: Callable) -> Any:
        self.prepared.append(fn)
        self.current, self.slower = self.seconds.pop(0), 0.0

        def replay() -> None:
            self.calls += 1
            fn()

        return SimpleNamespace(call=replay, rounds=5, iterations=self.iterations, setup=self._setup)

    def _setup(self) -> None:
        self.setups += 1

    def timer(self) -> float:
        if next(self.readings) % 2:  # the end of a round
            self.now += self.iterations * (self.current + self.slower)
            self.slower += 1.0
        return self.now


def scripted(*seconds: float, iterations: int = 1) -> Any:
    return Clock(*seconds, iterations=iterations)


@pytest.fixture
def small(monkeypatch):
    """Makes matrices and caches small: the scripted clock doesn't mind."""
    monkeypatch.setattr(rates, "SIZES", {"cpu": (2, 4, 8)})
    monkeypatch.setattr(rates, "LONGEST", {"cpu": 100.0})
    monkeypatch.setattr(rates, "cache_bytes", lambda device: 2 ** 10)
    monkeypatch.setattr(rates, "TILE", 2 ** 8)


def test_the_fastest_round_counts_a_call():
    clock = scripted(0.5, iterations=4)
    assert rates._fastest(lambda: None, clock) == pytest.approx(0.5)
    assert clock.setups == 5
    assert clock.calls == 5 * 4  # of what the clock prepared


def test_rounds_end_with_the_time_for_them(monkeypatch):
    clock = scripted(0.5)
    monkeypatch.setattr(rates, "SECONDS", 0.0)
    rates._fastest(lambda: None, clock)
    assert clock.setups == rates.ROUNDS


def test_a_copy_counts_what_it_reads_and_what_it_writes(small):
    clock = scripted(2.0)
    assert rates.copy(CPU, clock) == pytest.approx(2 * 4096 / 2.0)  # four caches, read and written, in 2 s
    copy, = clock.prepared
    source, target = copy.args[0], copy.func.__self__
    assert source.nbytes == target.nbytes == 4096
    assert torch.equal(source, target)  # it was made
    assert source.data_ptr() != target.data_ptr()
    assert source.unique().numel() == 2 ** 8  # numbers of a tile, all random


@pytest.mark.parametrize("limit", ["LARGEST", "free"])
def test_a_copy_stays_within_its_memory(small, monkeypatch, limit):
    if limit == "free":
        monkeypatch.setattr(rates, "free_bytes", lambda device: 4 * 2048)
    else:
        monkeypatch.setattr(rates, "LARGEST", {"cpu": 2048})
    clock = scripted(1.0)
    assert rates.copy(CPU, clock) == pytest.approx(2 * 2048)


def test_the_best_size_is_the_ceiling(small):
    clock = scripted(1.0, 2.0, 32.0)
    assert rates.matmul(CPU, "bf16", clock) == pytest.approx(2 * 4 ** 3 / 2.0)  # of 16, 64 and 32 FLOP/s
    assert [call.args[0].shape[0] for call in clock.prepared] == [2, 4, 8]
    for call in clock.prepared:
        a, b = call.args
        assert a.dtype == b.dtype == torch.bfloat16
        assert a.count_nonzero() == a.numel()
        assert torch.equal(call.keywords["out"], a @ b)


def test_a_size_that_would_take_too_long_is_left_out(small):
    clock = scripted(1.0, 13.0)  # the next would take 8 times as long
    assert rates.matmul(CPU, "fp32", clock) == pytest.approx(16.0)
    assert len(clock.prepared) == 2


def test_a_size_that_would_not_fit_is_left_out(small, monkeypatch):
    needed = 3 * 4 * 4 * 4  # bytes of three 4 x 4 matrices
    for free, sizes in ((4 * needed, 2), (4 * needed - 4, 1)):
        monkeypatch.setattr(rates, "free_bytes", lambda device, free=free: free)
        clock = scripted(1.0, 1.0, 1.0)
        rates.matmul(CPU, "fp32", clock)
        assert len(clock.prepared) == sizes


@pytest.fixture
def precision():
    """Sets the format of fp32 products, and sets it back."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_fp32_is_labelled_by_its_format(precision):
    cuda = torch.device("cuda")
    precision("highest")
    assert rates.labels(["fp32", "bf16", "fp32"], CPU) == ["fp32", "bf16"]
    precision("high")
    assert rates.labels(["bf16", "fp32"], cuda) == ["bf16", "fp32", "fp32-tf32"]
    precision("medium")
    assert rates.labels(["fp32"], cuda) == ["fp32", "fp32-tf32"]
    assert rates.labels(["fp32"], CPU) == ["fp32", "fp32-bf16"]
    assert rates.labels(["bf16"], CPU) == ["bf16"]


@pytest.mark.parametrize(("label", "seen"), [("fp32", ["ieee"]), ("fp32-tf32", ["tf32"])])
def test_fp32_is_multiplied_as_its_label_says(label, seen, small, precision, monkeypatch):
    precision("high")
    backends: Any = torch.backends
    formats = []

    def fastest(fn, clock):
        formats.append(backends.cuda.matmul.fp32_precision)
        return 1e3  # seconds: no further size

    monkeypatch.setattr(rates, "_fastest", fastest)
    rates.matmul(CPU, label, CpuClock())
    assert formats == seen
    assert torch.get_float32_matmul_precision() == "high"
    assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == "tf32"


def test_torch_s_seed_stays_as_it_was(small):
    before = torch.random.get_rng_state()
    rates.copy(CPU, scripted(1.0))
    rates.matmul(CPU, "fp32", scripted(1.0, 1.0, 1.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_cpu_s_last_caches_count_together(tmp_path, monkeypatch):
    """Two cores share one, a third has one to itself; smaller levels don't count."""
    for core, cores, size in ((0, "0-1", 32768), (1, "0-1", 32768), (2, "2", 16384)):
        for index, (level, shared, bytes_) in enumerate(((1, str(core), 32), (2, str(core), 512), (3, cores, size))):
            cache = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            cache.mkdir(parents=True)
            for name, text in (("level", level), ("shared_cpu_list", shared), ("size", f"{bytes_}K")):
                (cache / name).write_text(f"{text}\n")
    monkeypatch.setattr(rates, "CPU_CACHES", tmp_path)
    assert rates.cache_bytes(CPU) == (32768 + 16384) * 1024
    (tmp_path / "cpu0" / "cache" / "index0" / "size").write_text("unknown\n")
    assert rates.cache_bytes(CPU) == rates.UNKNOWN_CACHE
    monkeypatch.setattr(rates, "CPU_CACHES", tmp_path / "none")
    assert rates.cache_bytes(CPU) == rates.UNKNOWN_CACHE


def test_this_machine_reaches_what_a_stopwatch_says(monkeypatch):
    """No more than twice nor less than a fifth of it: the stopwatch's product is one of the sizes."""
    monkeypatch.setattr(rates, "SIZES", {"cpu": (256,)})
    result = rates.matmul(CPU, "fp32", CpuClock())
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    assert 0.2 < result / (2 * 256 ** 3 / min(seconds)) < 2
