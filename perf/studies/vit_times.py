"""Measures the columns of the ViT study that cost no training: latency, throughput, size, memory, and the time of the
kernels."""
from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attention.backends.base import FUSED
from models.quantization import get, model_bytes
from perf.measure.clocks import clock
from perf.measure.compiling import forget
from perf.measure.memory import peak_bytes
from perf.measure.sampling import sample
from perf.report.models_table import percentile
from perf.studies.calls import bounded
from perf.studies.claims import Cell, table
from perf.studies.measuring import PRECISION, Study
from perf.studies.ratio import Ratio
from perf.studies.rounds import Call, able, interleaved
from perf.studies.vit_rows import BASE, Treatment
from perf.studies.where_time_goes import where

COMPILED = 64
KERNELS = 20.0  # seconds to look at the kernels of one row: its profile can take longer than all rounds


@dataclass(frozen=True)
class Speed:
    """Holds the seconds of a row's rounds at one batch, bytes of its model, and of the peak of a call beyond them."""

    seconds: tuple[float, ...]
    bytes: int
    peak: int

    def against(self, base: Speed) -> Ratio:
        """Divides its time by another's, round by round."""
        return Ratio.of(self.seconds, base.seconds)


def times(study: Study, twins: Mapping[Treatment, Any], images: torch.Tensor, seconds: float) -> dict[Treatment, Speed]:
    """Times all rows on these images, in rounds of random order, and records that; then looks at the kernels of each
    while there is time, and prints the table."""
    batch = len(images)
    if any(row.compiled for row in twins):
        forget()  # of another batch
    calls = able(study, {row.name: _call(model, row, images) for row, model in twins.items()}, f"batch {batch}")
    measured = interleaved(calls, study.device, seconds=seconds)
    speeds = {row: Speed(tuple(measured[row.name]), model_bytes(twins[row]), peak_bytes(calls[row.name], study.device))
              for row in twins if row.name in calls}
    lines = {}
    for row, speed in speeds.items():
        lines[row] = _cells(row, speed, batch)
        if BASE in speeds and row != BASE:
            lines[row]["time's change"] = str(speed.against(speeds[BASE]))
        study.write("times", {**lines[row], "batch": batch, "bytes": speed.bytes,
                              "seconds": [round(x, 7) for x in speed.seconds]})
    for row, cells in lines.items():
        with study.part(f"kernels of {row.name}, batch {batch}"), bounded(KERNELS):
            study.in_time()
            cells |= (kernels := _kernels(study.device, calls[row.name]))
            study.write("kernels", {"row": row.name, "batch": batch, **kernels})
    rounds = min(map(len, measured.values()), default=0)
    print(table(f"batch {batch}: {rounds} rounds in random order, by the stopwatch; change of {BASE.name}'s time, "
                "negative is faster; peak over the weights", list(lines.values())), flush=True)
    return speeds


def _call(model: Any, row: Treatment, images: torch.Tensor) -> Call:
    """Makes the call of the forward pass; compiled for this batch where the row is."""
    pixels = images.to(next(weight.dtype for weight in model.parameters() if weight.is_floating_point()))
    run = model
    if row.compiled:
        from torch._dynamo import config

        config.recompile_limit = COMPILED  # rows are one class, each compiled for itself
        config.fail_on_recompile_limit_hit = True
        options = dict(get(row.method).inductor) if row.method else {}
        run = torch.compile(model, dynamic=False, options=options or None)
    return torch.no_grad()(lambda: run(pixel_values=pixels).logits)


def _cells(row: Treatment, speed: Speed, batch: int) -> dict[str, Cell]:
    mean = statistics.fmean(speed.seconds)
    percentiles = {f"p{part}": 1e3 * (percentile(speed.seconds, part / 100) or mean) for part in (50, 95, 99)}
    return {"row": row.name, "mean ms": 1e3 * mean, **percentiles, "images/s": batch / mean,
            "model MB": speed.bytes / 1e6, "peak MB": speed.peak / 1e6}


def _kernels(device: torch.device, call: Call) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    if device.type == "cuda" and not (plan := (ticking := clock(device)).prepare(call)).no_graph:
        cells["GPU ms"] = 1e3 * sample(ticking, plan, precision=PRECISION).median  # without a graph: the host's time
    spent = where(call, device)
    attention = sum(seconds for name, seconds in spent.kernels.items() if re.search(FUSED[device.type], name))
    return cells | {"attention ms": 1e3 * attention, "kernels ms": 1e3 * spent.busy, "kernels": round(spent.launches)}
