"""Holds asv's benchmarks of bare attention kernels."""
from __future__ import annotations

from perf.history import asv_benchmark

globals().update(asv_benchmark.classes("attention"))
