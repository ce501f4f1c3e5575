"""The harness takes a workload from its name to a verdict, and keeps and tells what came of it."""
from perf.system.editable import keep_apart

keep_apart()  # before anything of attention/ or models/ is imported
