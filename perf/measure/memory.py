"""Bytes: the peak that one call allocates, and what is free before it is made."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CGROUP = Path("/sys/fs/cgroup")


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes allocated at one time during `call`, beyond what was allocated before it."""
    return _cuda_peak(call, device) if device.type == "cuda" else _cpu_peak(call)


def _cuda_peak(call: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result  # counted: it stands while the peak is read
    return peak


def _cpu_peak(call: Callable[[], Any]) -> int:
    """From the profiler's record of torch's CPU allocator, which keeps no statistics of its own."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = call()
    del result
    events = profile.profiler.kineto_results.events() if profile.profiler else []
    changes = sorted(((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
                     key=lambda change: change[0])
    peak = allocated = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def free_bytes(device: torch.device) -> int:
    """What a call may still allocate on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min(psutil.virtual_memory().available, _cgroup_free())


def _cgroup_free() -> int | float:
    """What the container's limit leaves; infinite where there is none (cgroup v2)."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return float("inf")
    return float("inf") if limit == "max" else int(limit) - int(used) + _file_cache()


def _file_cache() -> int:
    """The part of a cgroup's use that the kernel gives back when asked."""
    for line in (CGROUP / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
