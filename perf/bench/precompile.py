"""Processes side by side fill torch.compile's caches before a GPU run: one process compiles one kernel at a time.

Each worker prepares and calls its share of the compiled workloads once; what it compiled lies in the
caches that all processes of a user share, so the run itself only traces.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch

from perf.system.tools import ending, group_by, last_line
from perf.workloads.workload import Workload

MOST = 14  # workers; each takes a CPU core and half a GB of the GPU


def precompile(workloads: Sequence[Workload], device: torch.device) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Gives seconds of compilation by workload id, and a line for each worker that failed.

    Does nothing on a CPU, whose cores it would share, nor for fewer than two shapes.
    """
    shapes = group_by(workloads, lambda w: (w.shape, w.treatment))
    count = min(MOST, max(1, (os.cpu_count() or 1) - 2), len(shapes))
    if device.type != "cuda" or count < 2:
        return {}, []
    # The longest sequences first, dealt out one by one.
    by_length = sorted(shapes.values(), key=lambda share: -share[0].n)
    workers = [_start([w for share in by_length[i::count] for w in share], device) for i in range(count)]
    figures: dict[str, dict[str, float]] = {}
    failed = []
    for worker in workers:
        out, errors = worker.communicate()
        for line in out.splitlines():
            if line.startswith("{"):
                figures.update(json.loads(line))
        if worker.returncode:
            failed.append("a worker that compiles kernels ahead failed; the run compiles them itself: "
                          + last_line(errors, ending(worker.returncode)))
    return figures, failed


def _start(workloads: Sequence[Workload], device: torch.device) -> subprocess.Popen[str]:
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    return subprocess.Popen([sys.executable, "-m", __name__, str(device), json.dumps([asdict(w) for w in workloads])],
                            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def main(arguments: Sequence[str]) -> int:
    """Is a worker: takes DEVICE WORKLOADS, as JSON, and prints a line of JSON a workload."""
    import attention
    from perf.bench.prepare import Preparer
    from perf.measure.compiling import compiling

    preparer = Preparer(torch.device(arguments[0]))
    for fields in json.loads(arguments[1]):
        w = Workload(**fields)
        if preparer.why_not(w):
            continue
        with compiling() as compiled:
            try:
                preparer.prepare(w).call()
            except (attention.Unsupported, torch.OutOfMemoryError):
                continue  # the run itself says so
        if figures := compiled.figures():
            print(json.dumps({w.id: figures}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
