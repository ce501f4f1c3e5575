"""Measures 000a: softmax attention in a TFT on eager, sdpa and flash, in one dtype at a time, and the study's faulty
one."""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

import attention
from attention import DTYPES
from models.data import split
from models.quality import Figure, compare, seasonal_naive
from models.registry import Preset
from perf.report import units
from perf.studies import tft_faults, tft_training
from perf.studies.calls import Timing, bounded, confirm, timing
from perf.studies.claims import Cell, Claims, table
from perf.studies.measuring import Study
from perf.studies.ratio import Ratio, change
from perf.studies.rounds import in_turns
from perf.studies.tft_faults import ALL, NONE, SLOW
from perf.studies.tft_sizes import Size
from perf.workloads.workload import Workload

STUDY = "as the study ran it"
KINDS = {"eager": ("softmax:eager", NONE), "sdpa": ("softmax:sdpa", NONE), "flash": ("softmax:sdpa-flash", NONE),
         "fa2": ("softmax:fa2", NONE), "flash, every step asks": ("softmax:sdpa-flash", SLOW),
         STUDY: ("softmax:sdpa-flash", ALL)}
TRAINED = ("eager", "sdpa", "flash", "fa2", STUDY)
FIGURES = ("rmse", "mase", "smape")


@dataclass(frozen=True)
class Setup:
    """Is a TFT to measure; `attention` is one of KINDS."""

    attention: str
    dtype: str
    batch: int
    heads: int

    def __str__(self) -> str:
        return f"{self.attention} {self.dtype}, batch {self.batch}, {self.heads} heads"


class Kernels:
    """Measures and trains rows on one device."""

    def __init__(self, study: Study, size: Size, limit: float) -> None:
        self.study, self.size, self.limit = study, size, limit
        self.times: dict[Setup, tuple[Timing, Timing]] = {}
        self.figures: dict[str, dict[str, Figure]] = {}
        self.rows: list[dict[str, Cell]] = []

    def why_not(self, row: Setup) -> str | None:
        """Says why a row can't be measured here."""
        preset = self._preset(row)
        n, m = preset.sizes["horizon"], preset.sizes["context"] + preset.sizes["horizon"]
        return attention.why_not(KINDS[row.attention][0], device=self.study.device, dtype=DTYPES[row.dtype],
                                 heads=row.heads, head_dim=preset.head_dim, n=n, m=m, causal=True, grad=True)

    @functools.cached_property
    def dtype(self) -> str:
        """Gives the first dtype in which both eager and flash can run (no GPU has flash in fp32): that of the grid and
        of the claims."""
        can = (dtype for dtype in self.size.dtypes
               if self.why_not(Setup("flash", dtype, self.size.batch, self.size.heads[-1])) is None)
        return next(can, self.size.dtypes[0])

    def row(self, row: Setup, train: bool = False) -> None:
        """Times a step and a forecast; then trains, where asked, and measures what that gave."""
        if reason := self.why_not(row):
            self.study.write("skipped", {"part": str(row), "reason": reason})
            print(f"  {row}: n/a, {reason}", flush=True)
            return
        with self.study.part(str(row)):
            self.study.in_time()
            model, preset = self._model(row)
            step = self._measured(tft_training.step(model, preset, row.batch, row.dtype), row, preset, "train-step")
            call = tft_training.forecast(model, preset, row.batch, row.dtype)
            forecast = self._measured(call, row, preset, "forward")
            self.times[row] = step, forecast
            trained: dict[str, float] = {}
            if train:
                trained = tft_training.train(model, preset, self.size.steps, row.batch, row.dtype, self.limit)
                self.figures[row.attention] = tft_training.figures(model, preset, row.dtype)
            self._keep(row, preset, trained)

    def _measured(self, call: Callable[[], Any], row: Setup, preset: Preset, phase: str) -> Timing:
        """Times a call, once it has run the row's kernel."""
        function, _, backend = KINDS[row.attention][0].partition(":")
        n, context = preset.sizes["horizon"], preset.sizes["context"]
        with bounded(self.limit):
            call()
            confirm(call, Workload(preset.name, function, backend, phase, True, row.batch, row.heads, preset.kv_heads,
                                   n, n + context, preset.head_dim, row.dtype), self.study.device)
        return timing(call, self.study.device, self.limit)

    def _keep(self, row: Setup, preset: Preset, trained: dict[str, float]) -> None:
        faults = KINDS[row.attention][1]
        step, forecast = self.times[row]
        steps = preset.sizes["horizon"] + (preset.sizes["context"] if faults.all_queries else 0)
        figures = self.figures[row.attention] if trained else {}
        self.study.write("000a", {**asdict(row), "faults": str(faults), "queries": steps, "step": asdict(step),
                                  "forecast": asdict(forecast), "training": trained,
                                  **{name: figures[name].value for name in FIGURES if figures}})
        self.rows.append({
            "attention": row.attention, "dtype": row.dtype, "batch": row.batch, "heads": row.heads, "queries": steps,
            "train s/step": f"{step.seconds:.4f}",
            "±": units.percent(step.interval), "inference s": f"{forecast.seconds:.4f}",
            "peak MB": f"{step.peak / 1e6:.1f}",
            **{name.upper().replace("SMAPE", "sMAPE %"): f"{figures[name].value:.3f}" if figures else "-"
               for name in FIGURES}})
        print(f"  {row}: {units.seconds(step.seconds)} a step", flush=True)

    def in_turns(self, base: Setup, new: Setup) -> Ratio:
        """Times training steps of two rows in turns."""
        old_step, new_step = (tft_training.step(*self._model(row), row.batch, row.dtype) for row in (base, new))
        return in_turns(old_step, new_step, self.study.device, self.limit)

    def _model(self, row: Setup) -> tuple[nn.Module, Preset]:
        variant, faults = KINDS[row.attention]
        return tft_faults.create(self._preset(row), variant, faults, device=self.study.device), self._preset(row)

    def _preset(self, row: Setup) -> Preset:
        return self.size.small.resized(heads=row.heads)


def measure(study: Study, claims: Claims, size: Size, limit: float) -> None:
    """Measures all rows, those of the grid too, then claims what the study does of them."""
    print(f"000a: {size.small.name}, hidden {size.small.hidden}, {size.small.sizes['context']} steps to "
          f"{size.small.sizes['horizon']}, {size.steps} steps of training in {size.dtypes[0]}", flush=True)
    kernels, heads = Kernels(study, size, limit), size.heads[-1]
    for dtype in size.dtypes:
        for kind in KINDS:
            kernels.row(Setup(kind, dtype, size.batch, heads), train=dtype == size.dtypes[0] and kind in TRAINED)
    for batch in size.batches:
        for count in size.heads:
            for kind in ("eager", "flash"):
                if (row := Setup(kind, kernels.dtype, batch, count)) not in kernels.times:
                    kernels.row(row)
    naive = seasonal_naive(split(size.small)[1])
    study.write("seasonal naive", {name: naive[name].value for name in FIGURES})
    naive_row = {"attention": "the last season repeated", **{name.upper().replace("SMAPE", "sMAPE %"):
                                                            f"{naive[name].value:.3f}" for name in FIGURES}}
    print(table("000a", [*kernels.rows, naive_row]), flush=True)
    _claims(kernels, claims, heads)
    _quality(kernels, claims, naive)


def _claims(kernels: Kernels, claims: Claims, heads: int) -> None:
    """Claims times in turns, each side being prepared anew: they differ by a few percent."""
    size, batches = kernels.size, kernels.size.batches
    why = "" if kernels.study.device.type == "cuda" else "the claim is of a GPU"
    dtype, wide = kernels.dtype, batches[min(1, len(batches) - 1)]
    eager, flash = (Setup(kind, dtype, size.batch, heads) for kind in ("eager", "flash"))
    pairs = (("flash trains faster than eager attention by default", "-3 %", eager, flash, 0.97),
             (f"flash trains 10.9 % faster than eager attention at batch {wide} with {heads} heads",
              "6332.7 -> 5644.3 s (-10.9 %)", replace(eager, batch=wide), replace(flash, batch=wide), 1 - 0.109),
             ("the study's pair, eager in fp32 and its faulty flash in bf16: 3 % faster", "-3 %",
              replace(eager, dtype="fp32"), Setup(STUDY, "bf16", size.batch, heads), 0.97))
    for claim, published, old, new, most in pairs:
        if old in kernels.times and new in kernels.times:
            with kernels.study.part(claim):
                kernels.study.in_time()
                ratio = kernels.in_turns(old, new)
                claims.add(f"000a: {claim}", published, f"{ratio} ({ratio.rounds} rounds; {old.dtype}, {new.dtype})",
                           ratio.at_most(most), apart=why)
    with kernels.study.part("the same baseline twice"):
        kernels.study.in_time()
        ratio = kernels.in_turns(eager, eager)
        claims.add("000a: the same baseline, timed twice, is the same within the 3 % claimed",
                   "44.1 and 56.1 s (+27.2 %)", f"{ratio} ({ratio.rounds} rounds)", ratio.within(0.03))
    plain, fused = (kernels.times.get(replace(row, batch=wide)) for row in (eager, flash))
    if plain and fused:
        claims.add(f"000a: flash takes 35.3 % less memory at batch {wide} with {heads} heads", "697 -> 451 MB",
                   f"{change(plain[0].peak, fused[0].peak)} ({units.size(plain[0].peak)} -> "
                   f"{units.size(fused[0].peak)} of a training step, beyond the weights)",
                   fused[0].peak <= 451 / 697 * plain[0].peak, apart=why)


def _quality(kernels: Kernels, claims: Claims, naive: dict[str, Figure]) -> None:
    base = kernels.figures.get("eager")
    for kind in ("flash", STUDY):
        if base and (figures := kernels.figures.get(kind)):
            claims.add_no_loss(f"000a: {kind}: no worse than eager attention, trained alike", "no figure",
                               compare(base["mase"], figures["mase"]))
    if base:
        change = compare(naive["mase"], base["mase"])
        claims.add("000a: the TFT, trained so long, forecasts better than the last season repeated", "not compared",
                   str(change), {"better": True, "worse": False}.get(change.verdict))
