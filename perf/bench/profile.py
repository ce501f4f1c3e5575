"""`--perf-profile torch|ncu|nsys` shows one warm call of one workload to a profiler.

torch's profiler runs in the process that asks for it. Nsight Compute and Nsight Systems must start the process
that they look at: they start this module, which prepares the workload, warms it up, and opens the profiled
range for one call.
"""
from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from perf.bench.prepare import Preparer
from perf.system.tools import first_line
from perf.workloads.workload import Workload

SUFFIX = {"torch": ".json.gz", "ncu": ".ncu-rep", "nsys": ".nsys-rep"}
PRODUCT = {"ncu": "Nsight Compute", "nsys": "Nsight Systems"}
CUDA = "/usr/local/cuda/bin"
INSTALLED = {"ncu": "/opt/nvidia/nsight-compute/*", "nsys": "/opt/nvidia/nsight-systems/*/bin"}
WARM_UP = 3  # calls
MARK = "spin_kernel"  # of CUDA's, runs before each call in the range: so several calls are told apart
TELLS_AN_ERROR = re.compile(r"==ERROR==|error\b|[\w.]*Error: ", re.IGNORECASE)

# Both look only between cudaProfilerStart and cudaProfilerStop. ncu would lock the GPU's clocks if it were let.
ARGUMENTS = {
    "ncu": ("--profile-from-start", "off", "--clock-control", "none", "--set", "detailed", "--target-processes", "all",
            "--force-overwrite", "--export"),
    "nsys": ("profile", "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--trace=cuda,nvtx",
             "--cuda-graph-trace=node", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true", "--output"),
}


def check(tool: str, device: torch.device, ids: Sequence[str]) -> None:
    """Raises ValueError, in one line, for what is known to be impossible before anything runs: `ids` are the
    selected rows."""
    if tool not in SUFFIX:
        raise ValueError(f"--perf-profile: unknown tool {tool!r}; choose from {', '.join(SUFFIX)}")
    option = f"--perf-profile {tool}"
    if len(ids) != 1:
        example = f", such as '{ids[0]}'" if ids else ""
        rows = f"{len(ids)} rows are" if ids else "no row is"
        raise ValueError(f"{option}: {rows} selected; name one with -k or by its id{example}")
    if tool == "torch":
        return
    if device.type != "cuda":
        raise ValueError(f"{option}: {PRODUCT[tool]} looks at GPU kernels, and the device is {device}; "
                         "use --perf-profile torch")
    if find(tool) is None:
        raise ValueError(f"{option}: {tool} is neither on the PATH nor in {CUDA} or {INSTALLED[tool]}; "
                         f"install {PRODUCT[tool]} or use --perf-profile torch")


def find(tool: str) -> str | None:
    """Finds a tool: on the PATH, else with CUDA, else the newest that is installed by itself."""
    own = sorted(glob.glob(INSTALLED[tool]), key=lambda name: [int(x) for x in re.findall(r"\d+", name)], reverse=True)
    cuda = [str(Path(os.environ[name], "bin")) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join([*cuda, CUDA, *own]))


def profile(w: Workload, tool: str, device: torch.device, *, folder: Path) -> Path:
    """Profiles one call of `w`; the trace is `folder`/ID.json.gz, .ncu-rep or .nsys-rep.

    Raises ValueError, in one line, for what `check` refuses, for what the workload can't do here, and if the tool
    saves nothing.
    """
    check(tool, device, [w.id])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.absolute() / (re.sub(r"[^\w.+-]", "_", w.id) + SUFFIX[tool])
    path.unlink(missing_ok=True)  # an older trace must not pass for this one
    if tool == "torch":
        _trace(_warm(w, device), device, path)
    else:
        _launch(w, tool, device, path)
    return path


def _warm(w: Workload, device: torch.device) -> Callable[[], Any]:
    """Makes the call of `w`, which ends when the device has done it, warmed up."""
    preparer = Preparer(device)
    if reason := preparer.why_not(w):
        raise ValueError(reason)
    call = preparer.prepare(w).call

    def call_and_wait() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM_UP):
        call_and_wait()
    return call_and_wait


def _trace(call: Callable[[], Any], device: torch.device, path: Path) -> None:
    """Writes a Chrome trace of one call; one before it, not in the trace, warms the profiler up."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True,
                                schedule=torch.profiler.schedule(wait=0, warmup=1, active=1, repeat=1),
                                on_trace_ready=lambda trace: trace.export_chrome_trace(str(path))) as profiler:
        for _ in range(2):
            call()
            profiler.step()


def _launch(w: Workload, tool: str, device: torch.device, path: Path) -> None:
    """Runs this module under a tool. This process doesn't touch the GPU."""
    program = find(tool) or tool
    child = [sys.executable, "-m", __name__, str(device), json.dumps(asdict(w))]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    process = subprocess.run([program, *ARGUMENTS[tool], str(path).removesuffix(SUFFIX[tool]), *child], env=variables,
                             text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if process.returncode or not path.exists():
        log = Path(str(path).removesuffix(SUFFIX[tool]) + ".log")
        log.write_text(process.stdout, encoding="utf-8")
        raise ValueError(f"--perf-profile {tool}: no trace was saved: {reason(process.stdout)} (all of it: {log})")


def reason(output: str) -> str:
    """Gives the first line that tells an error, the tool's, the child's or Python's; else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next(filter(TELLS_AN_ERROR.match, lines), lines[-1] if lines else "no word of why")


def main(arguments: Sequence[str]) -> int:
    """Is what a tool starts: `python -m perf.bench.profile DEVICE WORKLOAD...`, each workload's fields as JSON. Of
    several calls each begins with a kernel called `MARK`."""
    device, several = torch.device(arguments[0]), len(arguments) > 2
    for text in arguments[1:]:
        try:
            call = _warm(Workload(**json.loads(text)), device)
        except (ImportError, ValueError, torch.OutOfMemoryError) as error:
            print(f"error: {first_line(error)}", flush=True)
            return 1
        with torch.cuda.profiler.profile() if device.type == "cuda" else contextlib.nullcontext():
            if several:
                torch.cuda._sleep(1)
            call()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
