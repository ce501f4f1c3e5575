"""A benchmark drifts as those frozen controls (perf/bench/controls.py) do that the same thing limits."""
from __future__ import annotations

from collections.abc import Iterable

from perf.workloads.workload import Workload

FLOPS_PER_BYTE = {"cpu": 10.0, "cuda": 150.0}  # below which memory sets the limit
LAUNCH_FLOPS = {"cpu": 1e6, "cuda": 1e9}  # of a call, below which starting it does
FEW = 64  # tokens of a model's call: its kernels are small


def group(w: Workload, device_type: str) -> str:
    """Gives "compute", "memory" or "launch", by a kernel's FLOPs and bytes, by a model's tokens."""
    if not w.bare:
        return "launch" if w.batch * w.n < FEW else "compute"
    flops, moved = w.flops or 0, w.bytes or 1
    if flops < LAUNCH_FLOPS[device_type]:
        return "launch"
    return "memory" if flops / moved < FLOPS_PER_BYTE[device_type] else "compute"


def groups(workloads: Iterable[Workload], device_type: str) -> dict[str, str]:
    """Gives the group of each workload by its id, as perf.verdict.nightly.screened takes them."""
    return {w.id: group(w, device_type) for w in workloads}
