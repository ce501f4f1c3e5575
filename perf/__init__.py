"""What happens to a workload: workloads -> measure -> decide -> track and report."""
from perf.system.editable import keep_apart

keep_apart()  # before anything of attention/ or models/ is imported
