"""Memory is counted in bytes: what a call takes at its peak, what stays between calls, and what is free before."""
from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CGROUP = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # to clear_refs: the peak resident size starts anew (man 5 proc)


@dataclass(frozen=True)
class Peak:
    """Holds what a call took, in bytes, whatever was measured before it in this process.

    `allocated` and `reserved` count from what stood before the call, weights and inputs among it: they are
    activations, workspaces and results. `reserved` is what the CUDA allocator took from the GPU, None on the
    CPU; it rounds up to whole segments, and can be less than `allocated` where the call fits into what is left
    of the segments that hold the weights. `rss` is the largest resident size of the whole process, weights
    and libraries too, exact to some MB; None where the kernel does not let it be reset, and on a GPU.
    """

    allocated: int
    reserved: int | None = None
    rss: int | None = None


def peak(call: Callable[[], Any], device: torch.device, allocated: int | None = None) -> Peak:
    """Measures one call on a GPU. On the CPU it takes two, since the profiler that sees allocations takes memory; one
    will do where `allocated` is known from a profile."""
    if device.type == "cuda":
        return _cuda_peak(call, device)
    rss = _peak_rss(call)
    return Peak(_cpu_peak(call) if allocated is None else allocated, rss=rss)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Measures the most bytes allocated at one time during `call`, beyond what was allocated before it."""
    return _cuda_peak(call, device).allocated if device.type == "cuda" else _cpu_peak(call)


def kept_bytes(module: torch.nn.Module) -> int:
    """Counts the bytes of weights and buffers, each storage once: tied weights are one."""
    storages = [x.untyped_storage() for x in (*module.parameters(), *module.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _cuda_peak(call: Callable[[], Any], device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what earlier calls left would hide what this one takes
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    result = call()
    torch.cuda.synchronize(device)
    size = Peak(torch.cuda.max_memory_allocated(device) - allocated,
                torch.cuda.max_memory_reserved(device) - reserved)
    del result  # counted: it stands while the peak is read
    return size


def _peak_rss(call: Callable[[], Any]) -> int | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: the CPU's empty_cache
    if trim is not None:
        trim(0)
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:  # no Linux, or not allowed in this container
        return None
    result = call()
    resident = _line(PROCESS / "status", "VmHWM")
    del result
    return None if resident is None else resident * 1024  # the kernel says kB and means KiB


def _line(path: Path, name: str) -> int | None:
    """Reads the number of that name in a file of the kernel's, a name a line; None where it has none."""
    match = re.search(rf"^{name}:?\s+(\d+)", path.read_text(), re.MULTILINE)
    return int(match[1]) if match else None


def _cpu_peak(call: Callable[[], Any]) -> int:
    """Reads the profiler's record of torch's CPU allocator, which keeps no statistics of its own."""
    # torch.profiler would do, but imports the compiler, which takes two seconds.
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        result = call()
    del result
    return most_bytes(profile.kineto_results.events() if profile.kineto_results else [])


def most_bytes(events: Iterable[Any]) -> int:
    """Gives the most bytes that were allocated at one time while the profiler recorded, on the CPU."""
    changes = sorted(((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
                     key=lambda change: change[0])
    peak = allocated = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def free_bytes(device: torch.device) -> int:
    """Counts the bytes that a call may still allocate on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min(psutil.virtual_memory().available, _cgroup_free())


def shortage(error: BaseException) -> str | None:
    """Puts an allocator's paragraph in a few words: what was asked for and, on a GPU, what was free. Returns None for
    an error of another kind; the CPU's allocator has no type of error of its own."""
    text = str(error) or type(error).__name__
    if match := re.search(r"DefaultCPUAllocator: .*you tried to allocate (\d+) bytes", text):
        return f"asked for {match[1]} bytes more"
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "CUDA error: out of memory" not in text:
        return None
    match = re.search(r"Tried to allocate ([\d.]+ \w+).*?total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free",
                      text, re.DOTALL)
    return f"asked for {match[1]} more, {match[3]} of {match[2]} were free" if match else text.splitlines()[0]


def _cgroup_free() -> int | float:
    """Reads what the container's limit leaves; infinite where there is none (cgroup v2)."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return float("inf")
    if limit == "max":
        return float("inf")
    given_back = _line(CGROUP / "memory.stat", "inactive_file") or 0  # by the kernel, when asked
    return int(limit) - int(used) + given_back
