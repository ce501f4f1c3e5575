"""Holds asv's benchmarks: thin classes over the workloads of `perf.workloads`.

asv imports this as top-level `asv_suite`, in every process that it starts: nothing of it imports torch.
"""
