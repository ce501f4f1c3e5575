"""Holds asv's benchmarks of models with a variant of attention."""
from __future__ import annotations

from perf.history import asv_benchmark

globals().update(asv_benchmark.classes("models"))
