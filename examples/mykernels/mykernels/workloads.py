"""What this package measures beyond the grid that its variant joins by itself."""
from __future__ import annotations

from dataclasses import replace

from perf.workloads.grids import register
from perf.workloads.workload import BARE, Workload

KERNEL = Workload(BARE, "softmax", "einsum", "forward", causal=True, batch=2, heads=3, kv_heads=3, n=96, m=96,
                  head_dim=40, dtype="fp32")

register(KERNEL, replace(KERNEL, model="one-layer-3x40"))
