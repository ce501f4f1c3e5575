"""A workload is made ready to be timed: its inputs, its callable, its check against the oracle.

Cells of one shape share their inputs, the float64 reference, the built variants and what the check
found; the grid keeps them next to one another, and only the last shape is held.
"""
from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import torch

import attention
from perf.bench import NO_MEMORY, treatments
from perf.bench.contract import Prepared
from perf.measure.compiling import forget
from perf.measure.memory import free_bytes
from perf.workloads.workload import ITEM_BYTES, Workload

if TYPE_CHECKING:
    from perf.bench.kernels import Kernels
    from perf.bench.models import Models

SCRATCH = {"cpu": 2 ** 24, "cuda": 2 ** 28}  # scores that the reference works on at one time


class Preparer:
    """Prepares workloads one after the other on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            if device.index is not None:
                torch.cuda.set_device(device)  # events and kernels of the compiler go to the current device
            if torch.cuda.current_stream() == torch.cuda.default_stream():  # which no CUDA graph can capture
                torch.cuda.set_stream(torch.cuda.Stream())
        self._shape: Workload | None = None
        self._shared: Kernels | Models | None = None  # what the cells of one shape have in common
        self._imported = 0  # modules, of which the garbage collector knows no more

    def why_not(self, workload: Workload) -> str | None:
        """Says why the workload can't be measured here, in one line, decided before anything is allocated."""
        w = workload
        if reason := why_not(w, self.device):
            return reason
        needed, free = predict_bytes(w, self.device.type), free_bytes(self.device)
        if needed > free and w.shape != self._shape:
            self.release()  # the shape before may stand in the way
            free = free_bytes(self.device)
        if needed > free:
            return f"{w.variant}: {NO_MEMORY}: needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        return None

    def prepare(self, workload: Workload) -> Prepared:
        """Makes a workload ready. Raises ValueError or ImportError, in one line, for what the variant or model can't
        do here."""
        if workload.shape != self._shape:
            self.release()
            self._shared = _share(workload, self.device)
            self._shape = workload.shape
        assert self._shared is not None
        return self._shared.prepare(workload)

    def release(self) -> None:
        """Drops what the last shape's workloads share."""
        self._shape = self._shared = None
        forget()
        gc.collect()  # modules stand in reference cycles
        models = sys.modules.get("perf.bench.models")  # which may keep a model for the next shape
        if len(sys.modules) > self._imported and not (models and models.keeps_model()):
            gc.freeze()  # half a second to look through what was imported, each time
            self._imported = len(sys.modules)


def why_not(w: Workload, device: torch.device) -> str | None:
    """Says why the variant or its treatment can't be had on a device, in one line, whether it fits into memory or
    not."""
    try:
        reason = attention.why_not(w.variant, device=device, dtype=attention.DTYPES[w.dtype], heads=w.heads,
                                   kv_heads=w.kv_heads, head_dim=w.head_dim, n=w.n, m=w.m, causal=w.causal,
                                   grad=w.needs_grad)
    except ValueError as error:
        return str(error)
    return reason or treatments.why_not(w, device)


def predict_bytes(w: Workload, device_type: str) -> int:
    """Predicts what measuring and checking `w` holds at its peak: inputs and float64 reference, both a second time for
    the trial, and the larger of the call and the reference's scratch."""
    grad = w.needs_grad
    call = attention.peak_bytes(w.variant, batch=w.batch, heads=w.heads, kv_heads=w.kv_heads, n=w.n, m=w.m,
                                head_dim=w.head_dim, dtype=attention.DTYPES[w.dtype], grad=grad)
    scores = min(w.batch * w.heads * w.n * w.m, SCRATCH[device_type])
    tensors = w.batch * w.head_dim * (2 * w.heads * w.n + 2 * w.kv_heads * w.m)  # q, out; k, v
    twice = 2 * tensors * (ITEM_BYTES["fp64"] + ITEM_BYTES[w.dtype]) * (2 if grad else 1)
    if w.bare:
        return twice + max(call, 5 * ITEM_BYTES["fp64"] * scores)
    from perf.bench.models import model_bytes

    return twice + call + model_bytes(w)


def _share(workload: Workload, device: torch.device) -> Kernels | Models:
    if workload.bare:
        from perf.bench.kernels import Kernels

        return Kernels(workload, device)
    from perf.bench.models import Models

    return Models(workload, device)
