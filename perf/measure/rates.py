"""Rates are what a machine's memory and matrix units are seen to reach: the best of some rounds and sizes.

A copy counts the bytes it reads and those it writes; tensors are far larger than the last-level cache.
A product of n x n matrices counts 2 n^3 FLOPs. Both take the project's own clock.
"""
from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import attention
from perf.measure.clocks import Clock
from perf.measure.memory import free_bytes
from perf.measure.sampling import one_round

SIZES = {"cuda": (2048, 4096, 8192), "cpu": (256, 512, 1024, 2048, 4096)}  # n
LONGEST = {"cuda": 25e-3, "cpu": 60e-3}  # seconds: a size whose product would take longer is left out
CACHES = {"cuda": (8, 20), "cpu": (4,)}  # a copied tensor's size, in last-level caches
LARGEST = {"cuda": 2 ** 31, "cpu": 2 ** 29}  # and at most so many bytes
TILE = 2 ** 20  # random numbers in it, repeated: to draw them all takes longer than to copy them
ROUNDS, SECONDS = 3, 0.05  # at least so many; more until the time is spent
CPU_CACHES = Path("/sys/devices/system/cpu")
UNKNOWN_CACHE = 2 ** 25  # bytes, where the system doesn't say


def copy(device: torch.device, clock: Clock) -> float:
    """Measures bytes/s, read and written, of copying what no cache holds; at most a half of the free memory is used."""
    best = 0.0
    for caches in CACHES[device.type]:
        size = min(caches * cache_bytes(device), LARGEST[device.type], free_bytes(device) // 4)
        numbers = max(1, size // torch.float32.itemsize)
        tile = _random((min(numbers, TILE),), torch.float32, device)
        source = tile.repeat(numbers // tile.numel())
        target = torch.empty_like(source)
        best = max(best, 2 * source.nbytes / _fastest(functools.partial(target.copy_, source), clock))
    return best


def matmul(device: torch.device, label: str, clock: Clock) -> float:
    """Measures FLOP/s of the square product that reaches most; `label` is one of `labels`."""
    dtype, _, as_set = label.partition("-")
    best = 0.0
    for n in SIZES[device.type]:
        a, b = (_random((n, n), attention.DTYPES[dtype], device) for _ in range(2))
        with contextlib.nullcontext() if as_set else _ieee():
            seconds = _fastest(functools.partial(torch.mm, a, b, out=torch.empty_like(a)), clock)
        best = max(best, 2 * n ** 3 / seconds)
        doubled = 3 * 4 * a.nbytes
        if 8 * seconds > LONGEST[device.type] or doubled > free_bytes(device) // 4:
            break
    return best


def labels(dtypes: Iterable[str], device: torch.device) -> list[str]:
    """Lists `dtypes`, "fp32" being IEEE arithmetic; after it, where torch is set to multiply fp32 in a faster format,
    "fp32-tf32" or "fp32-bf16"."""
    faster = [f"fp32-{precision}" for precision in [_module(device).fp32_precision]
              if precision not in ("none", "ieee")]
    return [label for dtype in dict.fromkeys(dtypes) for label in (dtype, *(faster if dtype == "fp32" else []))]


def _fastest(fn: Callable[[], Any], clock: Clock) -> float:
    """Measures the fewest seconds that one call took."""
    plan = clock.prepare(fn)
    best, end = math.inf, time.perf_counter() + SECONDS
    for count in range(plan.rounds):
        if count >= ROUNDS and time.perf_counter() > end:
            break
        start, stop = one_round(clock, plan)
        best = min(best, (stop - start) / plan.iterations)
    return best


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Draws normal numbers: on zeros a GPU takes less power and has a higher clock. torch's seed stays as it was."""
    return torch.randn(shape, dtype=dtype, device=device, generator=torch.Generator(device).manual_seed(0))


def _module(device: torch.device) -> Any:
    """Gives the module in which torch keeps the format of fp32 products."""
    backends: Any = torch.backends
    return backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul


@contextlib.contextmanager
def _ieee() -> Iterator[None]:
    """Computes fp32 products in fp32 meanwhile, whatever torch is set to."""
    modules = [_module(torch.device(name)) for name in ("cuda", "cpu")]
    before = [module.fp32_precision for module in modules]
    try:
        for module in modules:
            module.fp32_precision = "ieee"
        yield
    finally:
        for module, precision in zip(modules, before, strict=True):
            module.fp32_precision = precision


def cache_bytes(device: torch.device) -> int:
    """Counts the bytes of the last-level cache; of a CPU that has several, of all of them."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    levels: dict[int, dict[str, int]] = {}  # level -> the cores that share a cache -> its bytes
    try:
        for cache in CPU_CACHES.glob("cpu[0-9]*/cache/index*"):
            level, cores, size = ((cache / name).read_text().strip() for name in ("level", "shared_cpu_list", "size"))
            levels.setdefault(int(level), {})[cores] = 1024 * int(size.removesuffix("K"))
    except (OSError, ValueError):
        return UNKNOWN_CACHE
    return sum(levels[max(levels)].values()) if levels else UNKNOWN_CACHE
