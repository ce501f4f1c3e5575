"""Shares the time of one call among its kernels, and tells attention's part of a model's step.

The times are those of the profiler under which the call is counted (perf/measure/counters.py): of a GPU's kernels,
and on a CPU of each operator less the operators that it calls. What the host does between them has no share.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType

import attention

ATTENTION = "perf: attention"  # the annotation of a call of attention
NODE = "autograd::engine::evaluate_function: "

LEAST = 0.005  # a kernel with less of the time has no entry
HALF = 0.5

# Kernels that consist of matrix products; nobody knows what a compiled CPU graph consists of.
_PRODUCT = re.compile(r"mm\b|matmul|gemm|gemv|nvjet|cutlass|(?<![a-z])q?linear(?!\d)|conv(olution|\d|_)|rnn|lstm|"
                      r"attention|attn|flash|fmha|triton_tem|_fft|einsum|CompiledFxGraph", re.IGNORECASE)
_LAUNCH = re.compile(r"cu(da)?(Launch|Graph|Mem)")

Spans = Sequence[tuple[int, int]]  # start and end in nanoseconds


class Event(Protocol):
    """Is one record of the profiler: an operator, a kernel, a call of the CUDA runtime."""

    def name(self) -> str: ...
    def device_type(self) -> DeviceType: ...
    def is_user_annotation(self) -> bool: ...
    def start_ns(self) -> int: ...
    def duration_ns(self) -> int: ...
    def correlation_id(self) -> int: ...
    def sequence_nr(self) -> int: ...
    def start_thread_id(self) -> int: ...
    def fwd_thread_id(self) -> int: ...


@contextmanager
def annotate() -> Iterator[None]:
    """Annotates each call of attention for the profiler meanwhile. A compiled model would be compiled anew."""
    plain = attention.Attention.forward

    def forward(self: attention.Attention, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.profiler.record_function(ATTENTION):
            return plain(self, *args, **kwargs)

    attention.Attention.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        attention.Attention.forward = plain  # type: ignore[method-assign]


def product(kernel: str) -> bool:
    """Tells by its name whether a kernel or operator consists of matrix products."""
    return _PRODUCT.search(kernel) is not None


def brief(kernel: str) -> str:
    """Gives a kernel's name without template arguments and parameters."""
    return re.split(r"[<(]", kernel.replace("(anonymous namespace)::", ""))[0]


def largest(shares: dict[str, float]) -> tuple[str, float] | None:
    """Gives the kernel with the largest share, and that share; None where no time is known."""
    return max(shares.items(), key=lambda entry: entry[1], default=None)


def stands_out(shares: dict[str, float]) -> bool:
    """Tells whether a kernel that is no matrix product takes more than half of the time."""
    top = largest(shares)
    return top is not None and top[1] > HALF and not product(top[0])


@dataclass(frozen=True)
class Shares:
    """Tells where the `nanoseconds` of one call go: each kernel's share, the largest first, and attention's (None where
    no call of it is annotated)."""

    kernels: dict[str, float] = field(default_factory=dict)
    attention: float | None = None
    nanoseconds: int = 0

    @property
    def seconds(self) -> dict[str, float]:
        """Gives each kernel's seconds."""
        return {name: share * self.nanoseconds * 1e-9 for name, share in self.kernels.items()}


def shares(events: Sequence[Event], name_of: Callable[[Event], str | None]) -> Shares:
    """Sums the time that the profiler recorded; `name_of` names what counts as a kernel, None is every other event."""
    times, inside = list(_times(events, name_of)), _spans(events)
    whole = sum(took for _, _, took in times)
    if not whole:
        return Shares()
    by_name: Counter[str] = Counter()
    for name, _, took in times:
        by_name[name] += took
    kernels = {name: round(took / whole, 4) for name, took in by_name.most_common() if took >= LEAST * whole}
    within = sum(took for _, moment, took in times if any(start <= moment < end for start, end in inside))
    return Shares(kernels, round(within / whole, 4) if inside else None, whole)


def _times(events: Sequence[Event], name_of: Callable[[Event], str | None]) -> Iterator[tuple[str, int, int]]:
    """Yields each kernel's name, the moment at which the host started it, and the nanoseconds that it took itself."""
    launches = {event.correlation_id(): event.start_ns() for event in events if _LAUNCH.match(event.name())}
    below: list[tuple[int, int, int]] = []  # of each open operator its thread, its end, the place of its entry
    entries: list[list[Any]] = []
    for event in sorted(events, key=lambda event: (event.start_thread_id(), event.start_ns(), -event.duration_ns())):
        if (name := name_of(event)) is None:
            continue
        thread, start, took = event.start_thread_id(), event.start_ns(), event.duration_ns()
        if event.device_type() == DeviceType.CUDA:
            yield name, launches.get(event.correlation_id(), start), took
            continue
        while below and (below[-1][0] != thread or below[-1][1] <= start):
            below.pop()
        if below:
            entries[below[-1][2]][2] -= took
        below.append((thread, start + took, len(entries)))
        entries.append([name, start, took])
    yield from map(tuple, entries)


def _spans(events: Sequence[Event]) -> Spans:
    """Finds when the host was within attention: its annotated calls, and the backward nodes that they made."""
    calls = sorted((event.start_thread_id(), event.start_ns(), event.start_ns() + event.duration_ns())
                   for event in events if event.is_user_annotation() and event.name() == ATTENTION
                   and event.device_type() == DeviceType.CPU)
    # An operator of the forward pass carries the number that the next backward node will get.
    numbers = sorted((event.start_ns(), event.start_thread_id(), event.sequence_nr()) for event in events
                     if event.sequence_nr() >= 0 and event.fwd_thread_id() == 0)
    own: set[tuple[int, int]] = set()
    for thread, start, end in calls:
        within = [number for moment, of, number in numbers if of == thread and start <= moment < end]
        after = next((number for moment, of, number in numbers if of == thread and moment >= end), None)
        if within:
            own.update((thread, number) for number in range(min(within), max(within) + 1 if after is None else after))
    nodes = [(event.start_ns(), event.start_ns() + event.duration_ns()) for event in events
             if event.name().startswith(NODE) and (event.fwd_thread_id(), event.sequence_nr()) in own]
    return [*((start, end) for _, start, end in calls), *nodes]
