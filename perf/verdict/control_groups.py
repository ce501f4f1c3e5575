"""Which frozen controls (perf/bench/controls.py) drift as a benchmark does: those that the same thing limits."""
from __future__ import annotations

from collections.abc import Iterable

from perf.workloads.workload import Workload

FLOPS_PER_BYTE = {"cpu": 10.0, "cuda": 150.0}  # below which memory sets the limit
LAUNCH_FLOPS = {"cpu": 1e6, "cuda": 1e9}  # of a call, below which starting it does
FEW = 64  # tokens of a model's call: its kernels are small


def group(w: Workload, device_type: str) -> str:
    """"compute", "memory" or "launch", by the benchmark's FLOPs and bytes; of a model by its tokens."""
    if not w.bare:
        return "launch" if w.batch * w.n < FEW else "compute"
    flops, moved = w.flops or 0, w.bytes or 1
    if flops < LAUNCH_FLOPS[device_type]:
        return "launch"
    return "memory" if flops / moved < FLOPS_PER_BYTE[device_type] else "compute"


def groups(workloads: Iterable[Workload], device_type: str) -> dict[str, str]:
    """By workload id: what perf.verdict.nightly.screened takes."""
    return {w.id: group(w, device_type) for w in workloads}
