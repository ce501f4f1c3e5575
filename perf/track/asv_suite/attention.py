"""Bare attention kernels."""
from __future__ import annotations

from perf.track import asv_benchmark

globals().update(asv_benchmark.classes("attention"))
