"""Holds asv's benchmarks: thin classes over the workloads of `perf.workloads`.

asv imports this as top-level `asv_suite`, in every process that it starts.
"""
from __future__ import annotations

import os

if os.environ.get("PERF_PRELOAD"):
    # What a fork server imports, the process of each cell has for free. torch imports _dynamo at the oracle's first
    # call: 2 s.
    import torch._dynamo  # noqa: F401

    import perf.bench.subject  # noqa: F401
