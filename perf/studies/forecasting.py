"""Trains other forecasters beside a TFT on the same series, with the same budget: quality, time, memory, and what
quantising them costs.

    python -m perf.studies.forecasting --out forecasting.jsonl                                       # a CPU: minutes
    python -m perf.studies.forecasting --out forecasting.jsonl --size hourly --batch 256 --dtype bf16      # a GPU

All rows have TFT's recipe, its batches, its loss and as many steps, from `--seeds` seeds; none is tuned. A score is the
mean of the seeds' for each held-out window, and an interval is of the windows. Steps and forecasts are timed in rounds
of random order. Data: statsmodels' monthly series, held out in time.
"""
from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import models
from attention import DTYPES
from models import quality, quantization
from models.data import split
from models.figures import Figure, compare
from models.recipes import recipe
from models.registry import Preset
from models.training import fit
from perf.measure.memory import peak_bytes
from perf.studies.claims import Cell, in_percent, spread, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.ratio import Ratio
from perf.studies.rounds import interleaved
from perf.studies.tft_training import figures, forecast, step

GATE = "quantile_loss"
METHODS = ("ptq-int8", "bnb-int8", "bnb-nf4", "ao-int8-weight")


@dataclass(frozen=True)
class Candidate:
    """Is a model on a variant; `sizes` change numbers of its preset."""

    model: str
    variant: str = "softmax:sdpa"
    options: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=lambda: {"dropout": 0.1})  # TFT's

    def preset(self, size: str) -> Preset:
        """Gives the preset of this model for `size`, "monthly" or "hourly"."""
        if self.model == "tft":
            name, sizes = ("tft-monthly", {"heads": 4}) if size == "monthly" else (
                "tft-160", {"static": (3,), "known": 3})
            return models.get(name).resized(**sizes)
        return models.get(f"{self.model}-{size}").resized(**self.sizes)


BASE = "TFT"
CANDIDATES = {
    BASE: Candidate("tft"), "PatchTST": Candidate("patchtst"),
    "PatchTSMixer": Candidate("patchtsmixer", sizes={"dropout": 0.1, "self_attn": False}),
    "PatchTSMixer with attention": Candidate("patchtsmixer"),
    "Informer, softmax": Candidate("informer"),
    "Informer, ProbSparse": Candidate("informer", "probsparse:eager"),
    "Autoformer, softmax": Candidate("autoformer"),
    "Autoformer, auto-correlation": Candidate("autoformer", "autocorrelation:fft", {"factor": 3}),
    "time-series transformer": Candidate("time-series-transformer"), "iTransformer": Candidate("itransformer"),
    "S-Mamba": Candidate("itransformer", sizes={"dropout": 0.1, "mixer": "mamba"})}


def joined(seeds: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    """Gives the figures of each window's mean score over the seeds."""
    return {name: replace(figure, items=np.mean([each[name].items for each in seeds], axis=0))
            for name, figure in seeds[0].items()}


def trained(candidate: Candidate, preset: Preset, seed: int, device: torch.device, steps: int, batch: int,
            dtype: str) -> nn.Module:
    """Builds and trains a model by TFT's recipe; its weights are float32."""
    model = models.create(preset, attention=candidate.variant, attention_options=candidate.options, seed=seed,
                          device=device, dtype=DTYPES[dtype]).float()
    how = replace(recipe(models.get("tft-monthly")), steps=steps, batch=batch)
    return fit(model, preset, split(preset)[0], how, seed=seed, dtype=DTYPES[dtype])


def quantised(study: Study, name: str, model: nn.Module, preset: Preset, batch: int,
              seconds: float) -> list[dict[str, Cell]]:
    """Measures what each method makes of a trained model: bytes, time of a forecast in turns, quality."""
    made = {"": model}
    for method in METHODS:
        if reason := quantization.why_not(method, device=study.device, dtype=torch.float32):
            study.write("skipped", {"model": name, "method": method, "reason": reason})
        else:
            made[method] = quantization.quantize(copy.deepcopy(model), method, dtype=torch.float32)
    times = interleaved({method: forecast(one, preset, batch, "fp32") for method, one in made.items()}, study.device,
                        seconds=seconds)
    scores = {method: figures(one, preset)[GATE] for method, one in made.items()}
    rows: list[dict[str, Cell]] = []
    for method, one in made.items():
        ratio, change = Ratio.of(times[method], times[""]), compare(scores[""], scores[method])
        size = quantization.model_bytes(one)
        study.write("quantised", {"model": name, "method": method or "fp32", "bytes": size, "change": asdict(change),
                                  "layers": len(quantization.quantized_layers(one)),
                                  "ratio": [ratio.median, ratio.interval]})
        if method:
            rows.append({"model": name, "method": method, "MB": size / 1e6, "fp32 MB":
                         quantization.model_bytes(model) / 1e6, "time's change": str(ratio),
                         "quantile loss": change.new, "change, %": spread(in_percent(change))})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables; each row is a record. 1 if a row could not be measured."""
    options = parser("forecasting", __doc__)
    options.add_argument("--size", choices=("monthly", "hourly"), default="monthly",
                         help="36 steps to 12 in width 64 (TFT 80), or 168 to 24 in width 128 (TFT 160)")
    options.add_argument("--model", action="append", default=[], choices=[name for name in CANDIDATES if name != BASE],
                         help="beside the TFT only this model; may be repeated")
    options.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the products in training")
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--seconds", type=float, default=20.0, help="of a table's rounds (default: 20)")
    args = options.parse_args(arguments)
    steps, seeds, seconds = (3, 2, 0.1) if args.tiny else (args.steps, args.seeds, args.seconds)
    study, device = Study(args.device, args.out, 60 * args.minutes), args.device
    chosen = {name: candidate for name, candidate in CANDIDATES.items() if name in (BASE, *(args.model or CANDIDATES))}
    presets = {name: candidate.preset(args.size) for name, candidate in chosen.items()}
    built: dict[str, nn.Module] = {}
    by_seed: dict[str, list[dict[str, Figure]]] = {}
    lines: list[dict[str, Cell]] = []
    for name, candidate in chosen.items():
        with study.part(name):
            study.in_time()
            train = functools.partial(trained, candidate, presets[name], device=device, steps=steps, batch=args.batch,
                                      dtype=args.dtype)
            all_trained = [train(seed=seed) for seed in range(seeds)]
            by_seed[name], built[name] = [figures(model, presets[name]) for model in all_trained], all_trained[0]
            study.write("quality", {"model": name, "items": [
                {figure.name: figure.items.tolist() for figure in each.values()} for each in by_seed[name]]})
            print(f"  {name}: {joined(by_seed[name])[GATE].value:.4f}", flush=True)
            lines += quantised(study, name, built[name], presets[name], args.batch, seconds / 10)
    scores = {name: joined(each) for name, each in by_seed.items()}
    steppers = {name: step(model, presets[name], args.batch, args.dtype) for name, model in built.items()}
    peaks = {name: peak_bytes(call, device) for name, call in steppers.items()}
    times = interleaved(steppers, device, seconds=seconds)
    forecasts = interleaved({name: forecast(model, presets[name], args.batch, args.dtype)
                             for name, model in built.items()}, device, seconds=seconds)
    rows: list[dict[str, Cell]] = []
    for name, figure in scores.items():
        low, high = figure[GATE].interval()
        change = compare(scores[BASE][GATE], figure[GATE])
        each = [one[GATE].value for one in by_seed[name]]
        numbers = {"parameters": sum(weight.numel() for weight in built[name].parameters() if weight.requires_grad),
                   "ms a step": 1e3 * float(np.median(times[name])),
                   "ms a forecast": 1e3 * float(np.median(forecasts[name])), "peak MB": peaks[name] / 1e6,
                   "RMSE": figure["rmse"].value, "MASE": figure["mase"].value, "sMAPE %": figure["smape"].value}
        ratio = Ratio.of(times[name], times[BASE])
        study.write("trained", {**asdict(CANDIDATES[name]), "model": name, "preset": presets[name].name, **numbers,
                                "seeds": each, "steps": steps, "batch": args.batch, "dtype": args.dtype,
                                "change": asdict(change), "interval": [low, high],
                                "ratio": [ratio.median, ratio.interval]})
        rows.append({"model": name, "quantile loss": figure[GATE].value, "interval": f"{low:.3f} to {high:.3f}",
                     "seeds": f"{min(each):.3f} to {max(each):.3f}",
                     "change, %": None if name == BASE else spread(in_percent(change)),
                     **numbers, "step's change": None if name == BASE else str(ratio)})
    naive = quality.seasonal_naive(split(presets[BASE])[1])
    rows.append({"model": "the last season repeated", "RMSE": naive["rmse"].value, "MASE": naive["mase"].value,
                 "sMAPE %": naive["smape"].value})
    windows = len(split(presets[BASE])[1])
    print(table(f"{args.size}, {steps} steps of {args.batch} in {args.dtype}, {seeds} seeds, {windows} held-out "
                "windows; changes are from TFT", rows))
    print(table("quantised, the first seed's; changes are from fp32", lines))
    print(*[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
