"""Workloads are what is measured, in plain scalars; grids hold them, and options choose among them."""
from perf.workloads.grids import register
from perf.workloads.workload import Sweep, Workload

__all__ = ["Sweep", "Workload", "register"]
