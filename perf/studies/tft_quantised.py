"""Measures 000b: a small and a large TFT in float32 and by PyTorch's dynamic int8 (ptq-int8), trained or said not to
be."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from models import quantization
from models.quality import Figure, compare
from models.registry import Preset
from perf.report import units
from perf.studies import tft_faults, tft_training
from perf.studies.calls import Timing, timing
from perf.studies.claims import Cell, Claims, table
from perf.studies.measuring import Study
from perf.studies.ratio import Ratio, change
from perf.studies.rounds import in_turns
from perf.studies.tft_sizes import Size

METHOD = "ptq-int8"
CPU = torch.device("cpu")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the block on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counts() -> list[int]:
    """Lists one thread, and as many as this process has: its cores, or what OMP_NUM_THREADS gives it of them."""
    return sorted({1, torch.get_num_threads()})


class Trials:
    """Measures each size in both; `seconds` are by (size, method, threads)."""

    def __init__(self, study: Study, size: Size, limit: float) -> None:
        self.study, self.size, self.limit = study, size, limit
        self.bytes: dict[tuple[str, str], int] = {}
        self.seconds: dict[tuple[str, str, int], Timing] = {}
        self.ratios: dict[str, Ratio] = {}  # of one thread, in turns
        self.figures: dict[tuple[str, str], dict[str, Figure]] = {}
        self.rows: list[dict[str, Cell]] = []

    def model(self, preset: Preset, steps: int, batch: int) -> tuple[nn.Module, str]:
        """Builds the model on the CPU, trained on the study's device; says how long it was."""
        model = tft_faults.create(preset, "softmax:sdpa", device=self.study.device)
        if not steps:
            return model.cpu(), "not trained"
        steps_and_seconds = tft_training.train(model, preset, steps, batch, "fp32", self.limit)
        return model.cpu(), f"{steps_and_seconds['steps']:.0f} steps"

    def measure(self, name: str, preset: Preset, steps: int, batch: int) -> None:
        """Measures a size in both."""
        model, trained = self.model(preset, steps, batch)
        calls: list[Callable[[], Any]] = []
        parameters = sum(weight.numel() for weight in model.parameters())
        for method in ("fp32", METHOD):
            with self.study.part(f"{name} {method}"):
                gpu = self._gpu(model, preset) if method == "fp32" else f"n/a, {METHOD} is the CPU's"
                twin = copy.deepcopy(model)
                if method != "fp32":
                    quantization.quantize(twin, method)
                self.bytes[name, method] = quantization.model_bytes(twin)
                call = tft_training.forecast(twin, preset, self.size.windows, "fp32")
                calls.append(call)
                for count in counts():
                    with self.study.part(f"{name} {method}, {count} threads"), threads(count):
                        self.seconds[name, method, count] = timing(call, CPU, self.limit)
                self.figures[name, method] = tft_training.figures(twin, preset)
                self._keep(name, method, trained, parameters, gpu)
        with self.study.part(f"{name} in turns"), threads(1):
            old, new = calls
            self.ratios[name] = in_turns(old, new, CPU, self.limit)

    def _gpu(self, model: nn.Module, preset: Preset) -> str:
        if self.study.device.type == "cpu":
            return "n/a, no GPU"
        there = copy.deepcopy(model).to(self.study.device)
        call = tft_training.forecast(there, preset, self.size.windows, "fp32")
        return f"{timing(call, self.study.device, self.limit).seconds:.4f}"

    def _keep(self, name: str, method: str, trained: str, parameters: int, gpu: str) -> None:
        figures = self.figures[name, method]
        times = {f"CPU s, {count} thread{'s' * (count > 1)}": self.seconds[name, method, count] for count in counts()
                 if (name, method, count) in self.seconds}
        self.study.write("000b", {"size": name, "method": method, "trained": trained, "parameters": parameters,
                                  "bytes": self.bytes[name, method], "windows": self.size.windows, "gpu": gpu,
                                  **{name_of_time: asdict(time) for name_of_time, time in times.items()},
                                  "rmse": figures["rmse"].value, "mase": figures["mase"].value})
        self.rows.append({"model": f"{name} ({parameters / 1e6:.2f} M)", "method": method, "trained": trained,
                          "model MB": f"{self.bytes[name, method] / 1e6:.2f}",
                          **{name_of_time: f"{time.seconds:.4f}" for name_of_time, time in times.items()}, "GPU s": gpu,
                          "RMSE": f"{figures['rmse'].value:.3f}", "MASE": f"{figures['mase'].value:.3f}"})
        print(f"  {name} {method}: {units.size(self.bytes[name, method])}", flush=True)


def measure(study: Study, claims: Claims, size: Size, limit: float) -> None:
    """Measures the rows, then claims what the study does of them."""
    print(f"000b: one forecast of {size.windows} windows", flush=True)
    trials = Trials(study, size, limit)
    sized = [("small", size.small, size.steps, size.batch), ("large", size.large, 0, 0)]
    if size.large_steps:
        sized.append(("large, trained", size.large, size.large_steps, min(16, size.batch)))
    for name, preset, steps, batch in sized:
        with study.part(f"000b {name}"):
            study.in_time()
            trials.measure(name, preset, steps, batch)
    print(table("000b", trials.rows), flush=True)
    _claims(trials, claims)


def _claims(trials: Trials, claims: Claims) -> None:
    old, new = (trials.bytes.get(("large", method)) for method in ("fp32", METHOD))
    if old and new:
        claims.add("000b: int8 makes the large model 74.7 % smaller", "203.95 -> 51.68 MB",
                   f"{change(old, new)} ({units.size(old)} -> {units.size(new)})", new <= (1 - 0.747) * old)
    faster = ("42.4 % faster", "1660.6 -> 955.9 s", 1 - 0.424)
    for name, effect, published, bound in (("large", *faster), ("large, trained", *faster),
                                           ("small", "slower", "95.1 -> 115.3 s (+21.2 %)", 1.0)):
        if ratio := trials.ratios.get(name):
            shown = ratio.at_most(bound)
            claims.add(f"000b: int8 makes the {name} model {effect} on the CPU", published,
                       f"{ratio} ({ratio.rounds} rounds, one thread)",
                       shown if effect != "slower" or shown is None else not shown)
    for name in ("small", "large, trained"):
        if (name, METHOD) in trials.figures:
            claims.add_no_loss(f"000b: int8 costs the {name} model no accuracy", "no figure",
                               compare(trials.figures[name, "fp32"]["mase"], trials.figures[name, METHOD]["mase"]))
