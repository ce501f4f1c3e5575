"""Peak bytes of a call, and what is free."""
from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import attention
from perf.measure import memory

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


def _forward(variant: str, n: int) -> Callable[[], Any]:
    """Prepares a forward pass of one head of width 32."""
    module = attention.create(variant, heads=1, head_dim=32)
    q, k, v = torch.randn(3, 1, 1, n, 32).unbind()
    return torch.no_grad()(lambda: module(q, k, v))


def allocated(variant: str) -> Callable[[int], int]:
    return functools.cache(lambda n: memory.peak_bytes(_forward(variant, n), CPU))


def growth(bytes_at: Callable[[int], int], n: int = 1024) -> float:
    """Returns the exponent of n in what grows from n to 4 n; what is constant, as a tile is, does not count."""
    small, middle, large = bytes_at(n), bytes_at(2 * n), bytes_at(4 * n)
    return math.log2((large - middle) / (middle - small))


def test_eager_grows_with_the_square_of_n_and_tiled_with_n():
    eager, tiled = allocated("softmax:eager"), allocated("softmax:tiled")
    assert growth(eager) == pytest.approx(2, abs=0.05)
    assert growth(tiled) == pytest.approx(1, abs=0.05)
    assert eager(4096) > 30 * tiled(4096)


def test_an_exponent_is_told():
    assert growth(lambda n: 3 * n * n + 10 ** 6) == pytest.approx(2)
    assert growth(lambda n: 5 * n + 10 ** 9) == pytest.approx(1)


needs_rss = pytest.mark.skipif(memory._peak_rss(lambda: None) is None,
                               reason="the kernel does not let the peak resident size be reset")


@needs_rss
def test_the_scores_are_resident():
    """Eager's n x n scores and their softmax stand at one time; tiled's never do."""
    scores = 2 * 4096 ** 2 * 4
    eager, tiled = (memory.peak(_forward(variant, 4096), CPU).rss for variant in ("softmax:eager", "softmax:tiled"))
    assert eager is not None
    assert tiled is not None
    assert eager - tiled == pytest.approx(scores, rel=0.2)


@needs_rss
def test_no_peak_is_inherited():
    """A small call after a big one takes what it takes."""
    def small() -> torch.Tensor:
        return torch.ones(MEGABYTE).sum()

    def big() -> torch.Tensor:
        return torch.ones(32 * MEGABYTE).sum()

    memory.peak(small, CPU)  # what starting the profiler takes
    before = memory.peak(small, CPU)
    larger = memory.peak(big, CPU)
    after = memory.peak(small, CPU)
    assert after.allocated == before.allocated == pytest.approx(4 * MEGABYTE, abs=100)
    assert larger.allocated == pytest.approx(128 * MEGABYTE, abs=100)
    assert before.rss is not None
    assert larger.rss is not None
    assert after.rss is not None
    assert larger.rss - before.rss == pytest.approx(124 * MEGABYTE, abs=8 * MEGABYTE)
    assert after.rss - before.rss == pytest.approx(0, abs=8 * MEGABYTE)


def test_where_the_peak_can_t_be_reset_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    called = []
    assert memory.peak(lambda: called.append(1), CPU).rss is None
    assert called == [1]


def test_the_kernel_s_kb_are_1024_bytes(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  9 kB\nVmHWM:\t  100 kB\n")
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    assert memory.peak(lambda: None, CPU).rss == 102_400
    assert memory._line(tmp_path / "status", "VmSwap") is None


def test_weights_are_told_apart_from_activations():
    layer = torch.nn.Linear(1024, 1024, bias=False)
    x = torch.randn(16, 1024)
    assert memory.kept_bytes(layer) == 4 * 1024 ** 2
    assert memory.peak(torch.no_grad()(lambda: layer(x)), CPU).allocated == 16 * 1024 * 4


def test_tied_weights_and_buffers_count_once():
    first, second = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
    second.weight = torch.nn.Parameter(first.weight.T)
    both = torch.nn.Sequential(first, second)
    assert memory.kept_bytes(both) == 64 * 64 * 4
    both.register_buffer("mask", torch.ones(100, dtype=torch.bool))
    assert memory.kept_bytes(both) == 64 * 64 * 4 + 100


class Allocator:
    """Stands in for CUDA's: segments of 20 MB, peaks that last until they are reset, a cache that stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.most_allocated = self.most_reserved = 0
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "memory_allocated", "memory_reserved",
                     "max_memory_allocated", "max_memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def take(self, megabytes: int) -> None:
        self.allocated += megabytes * MEGABYTE
        self.reserved = max(self.reserved, -(-self.allocated // (20 * MEGABYTE)) * 20 * MEGABYTE)
        self.most_allocated = max(self.most_allocated, self.allocated)
        self.most_reserved = max(self.most_reserved, self.reserved)

    def synchronize(self, device: torch.device) -> None:
        pass

    def empty_cache(self) -> None:
        self.reserved = -(-self.allocated // (20 * MEGABYTE)) * 20 * MEGABYTE

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.most_allocated, self.most_reserved = self.allocated, self.reserved

    def memory_allocated(self, device: torch.device) -> int:
        return self.allocated

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.most_allocated

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.most_reserved


def test_on_a_gpu_neither_peak_nor_cache_is_inherited(monkeypatch):
    allocator = Allocator(monkeypatch)
    allocator.take(40)  # weights

    def call(megabytes: int) -> Callable[[], None]:
        def take_and_give() -> None:
            allocator.take(megabytes)
            allocator.take(-megabytes)

        return take_and_give

    peaks = [memory.peak(call(megabytes), torch.device("cuda")) for megabytes in (30, 500, 30)]
    assert [(peak.allocated // MEGABYTE, (peak.reserved or 0) // MEGABYTE) for peak in peaks] == [
        (30, 40), (500, 500), (30, 40)]
    assert peaks[0].rss is None
    assert memory.peak_bytes(call(7), torch.device("cuda")) == 7 * MEGABYTE


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_on_this_machine_s_gpu():
    device = torch.device("cuda", 0)

    def small() -> torch.Tensor:
        return torch.empty(2 ** 25, dtype=torch.int8, device=device)

    def big() -> torch.Tensor:
        return torch.empty(2 ** 31, dtype=torch.int8, device=device)

    before, larger, after = (memory.peak(call, device) for call in (small, big, small))
    assert (before.allocated, larger.allocated, after.allocated) == (2 ** 25, 2 ** 31, 2 ** 25)
    assert larger.reserved == 2 ** 31
    assert before.reserved == after.reserved  # 0 where the call fits into a segment that stands already
    assert before.reserved in (0, 2 ** 25)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        memory.peak(small, device)
        seconds.append(time.perf_counter() - start)
    print(f"peak of a call that takes 32 MB: {statistics.median(seconds) * 1e3:.2f} ms")
    assert statistics.median(seconds) < 20e-3


@pytest.mark.parametrize(("said", "told"), [
    ("CUDA out of memory. Tried to allocate 32.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 29.03 GiB is "
     "free. Including non-PyTorch memory, this process has 50.14 GiB memory in use.",
     "asked for 32.00 GiB more, 29.03 GiB of 79.18 GiB were free"),
    ("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA", "CUDA error: out of memory")])
def test_what_was_short_in_a_few_words(said, told):
    assert memory.shortage(torch.OutOfMemoryError(said)) == told
