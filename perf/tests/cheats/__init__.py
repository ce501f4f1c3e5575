"""Attentions that cheat, one module for each way to do it."""
from perf.tests.cheats import gpu, gradients, late, less, memory, switches
from perf.tests.cheats.catalogue import CHEATS, GPU_CHEATS, GRADIENT_CHEATS, MOMENT, STAGES

__all__ = ["CHEATS", "GPU_CHEATS", "GRADIENT_CHEATS", "MOMENT", "STAGES", "gpu", "gradients", "late", "less", "memory",
           "switches"]
