"""Counters say what a call does without a clock: kernel launches, copies, operators, autograd nodes, compilations.

Counts carry no noise: two runs of the same code on the same machine and versions give the same ones, so any change is
real. perf/verdict/exact.py says which change gates.

| counter | counts, in one call |
|---|---|
| launches, memcpys, memsets | what the GPU ran, from PyTorch's profiler |
| host_syncs | times the host waited for the GPU |
| operators | calls of PyTorch's operators, those that operators make included |
| autograd_nodes | nodes of the graph that a backward pass ran through, or that the result holds |
| compiled_regions | pieces of compiled code entered: a graph break makes two of one |
| graph_breaks, recompiles | what torch.compile met with and compiled anew *meanwhile*: 0 once it is warm |
"""
from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.autograd import DeviceType

from perf.measure.compiled_code import graphs, kernels, launches, with_code, with_occupancy
from perf.measure.memory import most_bytes
from perf.measure.shares import NODE, Event, Shares, annotate, shares

CALLS, SHORT = 3, 10 ** 8  # calls of a CPU whose time is shared out, if the first took less than these nanoseconds
LONGEST_NAME = 160  # characters; a kernel's template arguments go on for thousands

_OPERATOR = re.compile(r"\w+::\w+")  # "aten::add"; what autograd and the compiler record looks otherwise
_SYNC = re.compile(r"cu(da)?(Stream|Device|Event|Ctx)Synchronize|cudaMemcpy(2D|3D|(To|From)Symbol)?(_v\d+)?$")
_REGION = "Torch-Compiled Region"
_GRAPH = "## Call CompiledFxGraph"  # and the hash of its code


@dataclass(frozen=True)
class Counts:
    """Holds one call's counters, and the names of its device kernels (operators on a CPU) with their launches."""

    counters: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    shares: Shares = field(default_factory=Shares, compare=False)  # of the time, which is not exact
    launches: list[dict[str, Any]] = field(default_factory=list)  # of a GPU's kernels, or a CPU's compiled ones
    graphs: list[Any] | None = field(default=None, compare=False)  # that were compiled; None: not all are known
    allocated: int | None = field(default=None, compare=False)  # bytes at the peak, on a CPU


def count(call: Callable[[], Any], device: torch.device, *, model: bool = False) -> Counts:
    """Counts one call, made under the profiler; `call` is warm already.

    Of a `model` that is not compiled, attention's share of the time is measured as well.
    """
    on_gpu = device.type == "cuda"
    own = _own_syncs(device) if on_gpu else 0
    before = compilations()
    named = functools.partial(_kernel, on_gpu=on_gpu)
    with annotate() if model else contextlib.nullcontext():
        record, result = _profile(call, device)
        events = record.events()
        after = compilations()
        times = [shares(events, named)]
        while not on_gpu and len(times) < CALLS and times[0].nanoseconds < SHORT:
            times.append(shares(_profile(call, device)[0].events(), named))
    quickest = min(times, key=lambda each: each.nanoseconds)  # the one that other processes disturbed least
    ran = graphs(events)
    facts = launches(record) if on_gpu else [kernel for graph in ran or () for kernel in kernels(graph)]
    if on_gpu and facts:
        facts = with_code(with_occupancy(facts, torch.cuda.get_device_properties(device)))
    counted = replace(tally(events, on_gpu), shares=quickest, launches=facts, graphs=ran,
                      allocated=None if on_gpu else most_bytes(events))
    if on_gpu:
        counted.counters["host_syncs"] -= own
    counted.counters["autograd_nodes"] = counted.counters["autograd_nodes"] or nodes(result)
    counted.counters.update({name: after[name] - before[name] for name in after})
    return counted if ran or not counted.counters["compiled_regions"] else replace(counted, graphs=None)


def tally(events: Iterable[Event], on_gpu: bool) -> Counts:
    """Sorts what the profiler recorded."""
    kernels: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    counted = Counter(autograd_nodes=0, compiled_regions=0)
    if on_gpu:
        counted.update(launches=0, memcpys=0, memsets=0, host_syncs=0)
    for event in events:
        name = event.name()
        if event.is_user_annotation():
            continue
        if event.device_type() == DeviceType.CUDA:
            copied = next((what for what in ("Memcpy", "Memset") if name.startswith(what)), None)
            if copied:
                counted[f"{copied.lower()}s"] += 1
            else:
                kernels[_short(name)] += 1
        elif operator := _operator(name):
            operators[operator] += 1
        elif name.startswith(NODE):
            counted["autograd_nodes"] += 1
        elif name.startswith(_REGION):
            counted["compiled_regions"] += 1
        elif on_gpu and _SYNC.match(name):
            counted["host_syncs"] += 1
    if on_gpu:
        counted["launches"] = kernels.total()
    counted["operators"] = operators.total()
    return Counts(dict(counted), dict(kernels if on_gpu else operators))


def _kernel(event: Event, on_gpu: bool) -> str | None:
    """Gives the name under which an event has a share of the time: a GPU's kernel or copy, an operator on a CPU."""
    if event.is_user_annotation() or on_gpu != (event.device_type() == DeviceType.CUDA):
        return None
    return _short(event.name()) if on_gpu else _operator(event.name())


def _operator(name: str) -> str | None:
    return name if _OPERATOR.fullmatch(name) else "CompiledFxGraph" if name.startswith(_GRAPH) else None


def _short(kernel: str) -> str:
    return kernel.removeprefix("void ")[:LONGEST_NAME]


def compilations() -> dict[str, int]:
    """Counts graph breaks, and graphs compiled, since the process began."""
    if "torch._dynamo" not in sys.modules:  # its import takes two seconds
        return {"graph_breaks": 0, "recompiles": 0}
    from torch._dynamo.utils import counters

    return {"graph_breaks": sum(counters["graph_break"].values()), "recompiles": counters["stats"]["unique_graphs"]}


def nodes(result: Any) -> int:
    """Counts the nodes of the autograd graphs that the tensors in `result` hang on."""
    ahead = [x.grad_fn for x in tensors(result) if x.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                ahead.append(node)
    return len(seen)


def tensors(result: Any) -> Iterator[torch.Tensor]:
    """Yields the tensors in what a call returned: itself, or those of its lists and mappings, in order."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, Mapping):
        yield from tensors(list(result.values()))
    elif isinstance(result, list | tuple):
        for item in result:
            yield from tensors(item)


def _profile(call: Callable[[], Any], device: torch.device) -> tuple[Any, Any]:
    """Gives the profiler's raw record of `call`, and what it returned. torch.profiler would import the compiler."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    with torch.autograd.profiler.profile(use_kineto=True, use_device="cuda" if on_gpu else None,
                                         profile_memory=not on_gpu) as profile:
        result = call()
    return profile.kineto_results, result


@functools.cache
def _own_syncs(device: torch.device) -> int:
    """Counts how often the profiler itself waits for the GPU, seen where nothing is called."""
    record, _ = _profile(lambda: None, device)
    return tally(record.events(), on_gpu=True).counters["host_syncs"]
