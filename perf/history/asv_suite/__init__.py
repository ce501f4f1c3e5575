"""asv's benchmarks: thin classes over the workloads of `perf.workloads`.

asv imports this as top-level `asv_suite`, in every process that it starts.
"""
from __future__ import annotations

import importlib
import os

# What a fork server imports, the process of each cell has for free. torch imports the last one at the
# oracle's first call: 2 s.
PRELOADED = ("perf.bench.subject", "torch._dynamo")

if os.environ.get("PERF_PRELOAD"):
    for _name in PRELOADED:
        importlib.import_module(_name)
