"""Made-up evidence of every kind, for the tests of the page."""
from __future__ import annotations

from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.workloads.workload import Workload

GPU = {"kind": "machine", "schema": 2, "id": "gpu", "gpus": ["NVIDIA H200"] * 2, "driver": "580.1", "cuda": "13.0",
       "clocks_locked_mhz": None, "governor": None, "torch": "2.11.0"}
SOFTMAX = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "bf16")
STATE = {"sm_mhz": 1800, "sm_mhz_min": 1700, "sm_mhz_max": 1980, "sm_mhz_limit": 1980, "throttle": "",
         "sm_drift": -0.01}


def row(backend="eager", n=512, outcome="ok", median=1e-3, **fields) -> Evidence:
    of_workload = {name: fields.pop(name) for name in list(fields)
                   if name in Workload.__annotations__ and not isinstance(fields[name], dict)}
    w = replace(SOFTMAX, **{"backend": backend, "n": n, "m": n, **of_workload})
    result = {"flops": n * 10 ** 8, "bytes": 10 ** 6, "error": 1e-3, "bound": 2e-3, "machine": "gpu", "time": 1e9}
    if outcome == "ok":
        result |= {"median": median, "interval": 0.004, "floor": median / 4, "limit": "FLOPs", "state": STATE,
                   "counters": {"launches": 3}, "kernels": {f"{backend}_kernel": 3},
                   "kernel_shares": {f"{backend}_kernel": 0.98}, "peak_bytes": 10 ** 7}
    return Evidence(w, outcome, **(result | fields))


ROWS = [
    *(row(backend, n, median=seconds * n / 512) for backend, seconds in (("eager", 4e-3), ("fa2", 1e-3))
      for n in (512, 1024, 2048)),
    row("flex", compiled={"cold": 4.0, "warm": 0.5}),
    row("tiled", outcome="wrong", reason="tiled: dq 0.2 > 0.1", error=0.2),
    row("sdpa", outcome="invalid", reason="the GPU throttled in 3 readings"),
    row("sdpa", 1024, outcome="failed", reason="RuntimeError: no"),
    row("sdpa-math", outcome="skipped", reason="needs 26 GB, 9 GB are free"),
    row("sdpa-math", 1024, outcome="skipped", reason="needs 104 GB, 9 GB are free"),
]

# ViT-L/16, made up but for their order of size.
VIT = Workload("vit-l16", "softmax", "sdpa", "forward", False, 32, 16, 16, 197, 197, 64, "bf16")
_TREATED = (("none", False, 9.7e-3, 608), ("none", True, 6.1e-3, 608), ("bnb-int8", False, 19.9e-3, 306),
            ("bnb-nf4", False, 16.9e-3, 174), ("ao-int8-dynamic", True, 5.2e-3, 307),
            ("ao-fp8-dynamic", True, 4.4e-3, 307))
TREATED = [
    Evidence(replace(VIT, batch=batch, quantization=method, compiled=compiled), "ok",
             median=median / (33 - batch) ** 0.1, samples=(median,) * 5, kept_bytes=megabytes * 10 ** 6,
             peak_bytes=(megabytes + 90) * 10 ** 6,
             compiled={"cold": 41.0, "warm": 3.1} if compiled else {}, machine="gpu", time=1e9, error=1e-2, bound=2e-2)
    for batch in (1, 32) for method, compiled, median, megabytes in _TREATED]
