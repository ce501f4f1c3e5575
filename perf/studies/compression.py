"""Compresses a trained TFT as t2 compresses its transformer (Allam, Peloton and McEwen, arXiv 2303.08951): pruned,
clustered or quantised, deflated; and by a small one that learns from it (Hinton et al., arXiv 1503.02531).

    python -m perf.studies.compression --out compression.jsonl

All are trained on the monthly series for as many steps of the TFT's recipe; what is pruned is then trained again for
half as many. Pruning zeroes the smallest half of each linear layer's weights (Han et al., arXiv 1510.00149), which
saves bytes only where the file is deflated, and no time. So does clustering: a layer's weights share 16 values (the
same paper; Lloyd's iterations, nothing trained afterwards). The small one's loss is the TFT's, and where it is taught
also the mean square from the teacher's quantiles. `ptq-int8` runs on a CPU, and so does this study.
"""
from __future__ import annotations

import copy
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

import models
from models import quantization
from models.data import split
from models.figures import compare
from models.losses import loss
from models.quantization.method import MIN_SIDE
from models.quantization.storage import stored
from models.recipes import recipe
from models.registry import Preset
from perf.studies.claims import Cell, in_percent, spread, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.ratio import Ratio
from perf.studies.rounds import interleaved
from perf.studies.tft_training import figures, forecast

BASE, GATE, METHOD = "TFT", "quantile_loss", "ptq-int8"
PRUNED = 0.5  # part of a layer's weights
SMALLER = 4  # times as narrow
CLUSTERS, ITERATIONS = 16, 20


class Masked(nn.Module):
    """Keeps the weights that a mask keeps, while the others are zero."""

    keep: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", weight.abs() > weight.abs().flatten().quantile(PRUNED))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Computes the weight that is used."""
        return weight * self.keep


def trained(model: nn.Module, preset: Preset, steps: int, teacher: nn.Module | None = None) -> nn.Module:
    """Trains in place, all alike but for the teacher; gives the model in eval mode."""
    how, (data, _) = replace(recipe(preset), steps=steps), split(preset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    draw = torch.Generator().manual_seed(0)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = how.rate(step / steps)
            inputs, target = data.batch(torch.randint(len(data), (how.batch,), generator=draw))
            value = loss(model, preset, inputs, target)
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(**inputs)
                value = value + (model(**inputs) - taught).square().mean()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), how.clip)
            optimizer.step()
    return model.eval()


def wide(model: nn.Module) -> list[nn.Linear]:
    """Lists the layers that quantisation would take."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear) and min(layer.weight.shape) >= MIN_SIDE]


def clustered(model: nn.Module) -> nn.Module:
    """Gives each layer of a copy `CLUSTERS` values besides zero, which stays: the means of the weights next to each."""
    model = copy.deepcopy(model)
    for layer in wide(model):
        weights = layer.weight.data[layer.weight.data != 0]
        values = torch.linspace(weights.min().item(), weights.max().item(), CLUSTERS)
        for _ in range(ITERATIONS):
            nearest = torch.bucketize(weights, (values[1:] + values[:-1]) / 2)
            counts = nearest.bincount(minlength=CLUSTERS)
            sums = torch.zeros(CLUSTERS).index_add_(0, nearest, weights)
            values = torch.where(counts > 0, sums / counts.clamp(min=1), values)
        layer.weight.data[layer.weight.data != 0] = values[nearest]
    return model


def pruned(model: nn.Module, preset: Preset, steps: int, teacher: nn.Module | None = None) -> nn.Module:
    """Prunes a copy, and trains what is left."""
    model = copy.deepcopy(model)
    layers = wide(model)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Masked(layer.weight.detach()))
    trained(model, preset, steps, teacher)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    return model


def deflated(model: nn.Module) -> int:
    """Counts the bytes of all that a model stores, deflated."""
    return len(zlib.compress(b"".join(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                                      for _, tensor in stored(model)), 9))


def int8(model: nn.Module) -> nn.Module:
    """Quantises a copy."""
    return quantization.quantize(copy.deepcopy(model), METHOD)


def compressed(study: Study, preset: Preset, small: Preset, steps: int) -> dict[str, nn.Module]:
    """Trains and compresses: gives all models by the name of their row. Raises TimeoutError where the study's time is
    spent before all are trained."""
    def new(one: Preset, teacher: nn.Module | None = None) -> nn.Module:
        study.in_time()
        return trained(models.create(one, attention="softmax:sdpa"), one, steps, teacher)

    teacher = new(preset)
    alone, taught = new(small), new(small, teacher)
    study.in_time()
    half, half_taught = pruned(teacher, preset, steps // 2), pruned(taught, small, steps // 2, teacher)
    return {BASE: teacher, "int8": int8(teacher), "pruned": half, "pruned, int8": int8(half),
            "pruned, clustered": clustered(half), "small": alone, "small, taught": taught,
            "small, taught, pruned, int8": int8(half_taught),
            "small, taught, pruned, clustered": clustered(half_taught)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record. 1 if there was not the time to train all."""
    options = parser("compression", __doc__)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--seconds", type=float, default=15.0, help="of the rounds of forecasts (default: 15)")
    options.set_defaults(device=torch.device("cpu"))
    args = options.parse_args(arguments)
    if args.device.type != "cpu":
        options.error(f"{METHOD} runs on a CPU only: leave --device out")
    study, steps = Study(args.device, args.out, 60 * args.minutes), 4 if args.tiny else args.steps
    preset = models.get("tft-monthly").resized(heads=4)
    small = replace(preset, name="tft-small", head_dim=preset.head_dim // SMALLER)
    models_by_row: dict[str, nn.Module] = {}
    with study.part("training"):
        models_by_row = compressed(study, preset, small, steps)
    if not models_by_row:
        return 1
    times = interleaved({name: forecast(model, preset, recipe(preset).batch, "fp32")
                         for name, model in models_by_row.items()}, study.device,
                        seconds=0.1 if args.tiny else args.seconds)
    scores = {name: figures(model, preset) for name, model in models_by_row.items()}
    bytes_by_row = {name: deflated(model) for name, model in models_by_row.items()}
    rows: list[dict[str, Cell]] = []
    for name, model in models_by_row.items():
        ratio, change = Ratio.of(times[name], times[BASE]), compare(scores[BASE][GATE], scores[name][GATE])
        line: dict[str, Any] = {
            "model": name, "MB": quantization.model_bytes(model) / 1e6, "deflated MB": bytes_by_row[name] / 1e6,
            "times smaller": bytes_by_row[BASE] / bytes_by_row[name], "ms a forecast":
            1e3 * statistics.median(times[name]), "time's change": None if name == BASE else str(ratio),
            "quantile loss": change.new, "its change, %": None if name == BASE else spread(in_percent(change)),
            "MASE": scores[name]["mase"].value}
        study.write("compression", {**line, "steps": steps, "ratio": [ratio.median, ratio.interval],
                                    "change": asdict(change)})
        rows.append(line)
    print(table(f"a TFT of {steps} steps and what it becomes; times smaller: deflated, of the TFT's; changes are from "
                "the TFT, 95 %", rows))
    print(f"records: {study.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
