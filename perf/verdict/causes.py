"""Ranks what most likely slowed a benchmark down, from what both sides counted. It is pure.

| cause | what moved |
|---|---|
| compile | recompilations, graph breaks, compiled regions, the compiler's seconds |
| the host | it waits for a value; or the operators of a CPU take the same time, and so the rest got slower |
| launches | launches, copies, memory sets; operators on a CPU |
| occupancy | of a kernel that both sides launch: the threads that a GPU's multiprocessor holds at once |
| bytes | moved by DRAM and L2; peak memory, memory kept, to move; PyTorch's kernel for what is not contiguous |
| instructions | executed; FLOPs; other kernels, as many; other code of one; the time of kernels that run as often |
| the clock | of the GPU, in MHz |

What explains half of the slowdown or more comes first, of several the exact ones, in the order of the table. The times
of kernels are those of one call under a profiler, so they are taken for a cause only from `PROFILED` on.

Nobody knows what a kernel waits for without its own counters. Where a GPU's are not read (perf/compare/metrics.py),
bytes are what the workload and the allocator say, and code that reads memory in a worse order counts as instructions.
Where they are read, what else is said of a kernel is only a guess: other code comes behind what explains a quarter, a
size or the planned occupancy behind all. Bytes explain the time that DRAM or L2 is longer busy for, where it is busy
for most of the call; else they are such a guess too, behind other code.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from perf.verdict.exact import Change, Side, unnumbered
from perf.verdict.words import bytes_change, clock_change, kernel_time, occupancy_change, short

HOST = "the host"
FIGURES = {
    "compile": ("recompiles", "graph_breaks", "compiled_regions", "compile_seconds"),
    HOST: ("host_syncs", "python"),
    "launches": ("launches", "memcpys", "memsets", "operators"),
    "occupancy": ("occupancy", "warps_active"),
    "bytes": ("dram", "l2", "strides", "peak_bytes", "kept_bytes", "bytes"),
    "instructions": ("executed", "waits", "flops", "kernels", "code", "kernel_seconds"),
    "the clock": ("mhz",),
}
CAUSES = {figure: cause for cause, figures in FIGURES.items() for figure in figures}
ORDER = {cause: place for place, cause in enumerate(FIGURES)}
PROFILED = 0.15  # of the time of all kernels: by as much may two profiles of the same call differ
SLOWED = 0.01  # of a GPU's clock, which is told in steps of 15 MHz
READ = ("warps_active", "dram", "l2", "executed")  # of a GPU's own counters
MOVED = 0.02  # of such a counter: by as much may two readings of the same call differ
GUESSED = 0.25  # of the slowdown: what other code is taken to explain beside them
BUSY = 60.0  # per cent: a memory that is busy for less of a call does not bound it, as Nsight Compute's rules have it
VECTORS, STRIDES = "vectorized_elementwise_kernel", re.compile(r"(?<!_)elementwise_kernel")
OF_KERNELS = ("occupancy", "bytes", "instructions")


def rank(gates: Sequence[Change], base: Side, head: Side, slower: float) -> list[tuple[str, Change]]:
    """Gives the causes of a head that is `slower` (0.05 is 5 %, 0 where no time says so), the likeliest first, each
    with its change."""
    exact = [_weigh(change, base, head) for change in (*gates, *_clock(base, head), *_strides(base, head))]
    read = list(_metrics(base, head, slower))
    guesses = list(_profiles(base, head, slower))
    ahead = [change for change in (*read, *exact, *guesses)
             if change.figure in CAUSES and (change.grew > 0 or change.sign > 0)]

    def place(change: Change) -> tuple[float, bool, int]:
        explained = min(change.grew / slower, 0.5) if slower > 0 else 0.0
        idle = head.metrics.get(f"{change.figure}_busy", BUSY) < BUSY
        if idle or (read and CAUSES[change.figure] in OF_KERNELS and change.figure not in (*READ, "strides")):
            explained = min(explained, GUESSED if idle or CAUSES[change.figure] == "instructions" else 0.0)
        return -explained, idle or change in guesses or change.figure == "waits", ORDER[CAUSES[change.figure]]

    return [(CAUSES[change.figure], change) for change in sorted(ahead, key=place)]


def unclear(gates: Sequence[Change], base: Side, head: Side, slower: float) -> bool:
    """Tells whether a GPU's own counters could say more of why the head is `slower`: the likeliest cause lies in what
    kernels do, or explains less than half."""
    if "launches" not in head.counters or slower <= 0:
        return False
    (cause, first), *_ = rank(gates, base, head, slower) or [(OF_KERNELS[0], Change("", 0))]
    return cause in OF_KERNELS or first.grew < slower / 2


def _weigh(change: Change, base: Side, head: Side) -> Change:
    """Lets more work weigh what it took, if that is known to be more than its part of the count; what a wait or a
    compilation takes is not known, and is more than anything else."""
    if change.figure in ("host_syncs", "recompiles", "graph_breaks", "compiled_regions") and change.sign > 0:
        return replace(change, grew=float("inf"))
    whole = sum(base.seconds.values())
    if change.figure == "code" and whole:
        return replace(change, grew=max(change.grew, sum(head.seconds.values()) / whole - 1))
    if CAUSES.get(change.figure) != "launches" or change.grew <= 0 or not whole:
        return change
    return replace(change, grew=max(change.grew, _exchange(base, head)[0] / whole))


def _exchange(base: Side, head: Side) -> tuple[float, float]:
    """Gives the seconds of what the head runs besides, the quickest of all that came, and by how much the others of
    these take longer than what they came for."""
    (old, before), (new, after) = map(_each, (base, head))
    came, went = list((new - old).elements()), list((old - new).elements())
    took = sorted(after.get(name, 0.0) for name in came)
    besides = max(0, len(came) - len(went))
    return sum(took[:besides]), sum(took[besides:]) - sum(before.get(name, 0.0) for name in went)


def _each(side: Side) -> tuple[Counter[str], dict[str, float]]:
    """Counts the kernels of one call by name, and gives the seconds of one launch."""
    counts, seconds = Counter[str](), dict[str, float]()
    for name, count in side.kernels.items():
        plain = unnumbered(name)
        counts[plain] += count
        seconds[plain] = seconds.get(plain, 0.0) + side.seconds.get(name, 0.0)
    return counts, {name: took / counts[name] for name, took in seconds.items() if counts[name]}


def _clock(base: Side, head: Side) -> Iterator[Change]:
    if base.mhz and head.mhz and base.mhz / head.mhz - 1 > SLOWED:
        yield Change(clock_change(base.mhz, head.mhz), 0, False, "mhz", base.mhz / head.mhz - 1)


def _strides(base: Side, head: Side) -> Iterator[Change]:
    """Looks for PyTorch's elementwise kernel that computes where each number lies, in place of one that need not."""
    came, went = Counter(head.kernels) - Counter(base.kernels), Counter(base.kernels) - Counter(head.kernels)
    plain = [name for name in went if VECTORS in name]
    if plain and any(STRIDES.search(name) for name in came):
        yield Change(f"an operand of {short(plain[0])} is not contiguous any more", 0, False, "strides",
                     _exchange(base, head)[1] / (sum(base.seconds.values()) or 1.0))


def _metrics(base: Side, head: Side, slower: float) -> Iterator[Change]:
    """Compares what a GPU's counters read in one call. Whatever moved, the instructions take longer."""
    old, new = base.metrics, head.metrics
    times = {name: new[name] / old[name] for name in old if name in new and old[name] > 0 < new[name]}
    if times.get("nanoseconds", 0.0) <= 1:
        return
    grew = {name: times[name] - 1 for name in times if times[name] > 1 + MOVED}
    if (fewer := 1 / times.get("occupancy", 1.0) - 1) > MOVED:
        yield Change(occupancy_change(old["occupancy"], new["occupancy"]), 0, False, "warps_active", fewer)
    for name in (memory for memory in ("dram", "l2") if memory in grew):
        was, now = (one.get(f"{name}_busy", 0.0) / 100 * one["nanoseconds"] for one in (old, new))
        yield Change(bytes_change(name, times[name], old.get("l2_hits"), new.get("l2_hits")), 0, False, name,
                     (now - was) / old["nanoseconds"])
    if "instructions" in grew:
        yield Change(f"{times['instructions']:.3g}x the instructions", 0, False, "executed", grew["instructions"])
    elif "instructions" in times:
        yield Change(f"{times['instructions']:.3g}x the instructions wait longer", 0, False, "waits", slower)


def _profiles(base: Side, head: Side, slower: float) -> Iterator[Change]:
    """Compares the times of kernels that run as often on both sides; on a CPU also of all of them with the call's."""
    old, new = base.seconds, head.seconds
    whole = sum(old.values())
    if not (whole and new):
        return
    both = [name for name in old if name in new and base.kernels.get(name) == head.kernels.get(name)]
    longer = sum(new[name] - old[name] for name in both) / whole
    if longer > PROFILED:
        most = max(both, key=lambda name: new[name] - old[name])
        yield Change(kernel_time(most, old[most], new[most]), 0, False, "kernel_seconds", longer)
    if "launches" in head.counters and (others := _exchange(base, head)[1] / whole) > PROFILED:
        yield Change("the kernels that came for others take longer", 0, False, "kernel_seconds", others)
    if "launches" not in head.counters and slower > 2 * PROFILED and sum(new.values()) < (1 + PROFILED) * whole:
        yield Change("the operators take the same time, the rest of the call takes longer", 0, False, "python", slower)
