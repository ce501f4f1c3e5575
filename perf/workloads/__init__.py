"""What is measured: a workload in plain scalars, the grids of them, and the way from options to a choice."""
from perf.workloads.grids import register
from perf.workloads.workload import Sweep, Workload

__all__ = ["Sweep", "Workload", "register"]
