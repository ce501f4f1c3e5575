"""Measures how far each quantisation method is off, by layer and by logits: perf/policy/budgets.toml was set from it.

    python -m perf.studies.quantisation_errors [--device cuda] [--models vit-l16,gpt2]
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import models
from perf.bench import treatments
from perf.bench.models import Models
from perf.system import devices
from perf.workloads.grids import quantizations
from perf.workloads.workload import Workload

PRESETS = ("gpt2-tiny", "vit-tiny", "tft-tiny", "distilgpt2", "vit-b16", "tft-160")
TOKENS = 64  # of a language model
BATCH = 2


def workload(name: str, dtype: str) -> Workload:
    """Returns a forward pass of a preset."""
    preset = models.get(name)
    sizes = preset.sizes
    n, m, phase = {"gpt2": lambda: (TOKENS, TOKENS, "prefill"),
                   "vit": lambda: (models.family(preset).tokens(preset),) * 2 + ("forward",),
                   "tft": lambda: (sizes["horizon"], sizes["context"] + sizes["horizon"], "forward")}[preset.family]()
    return Workload(name, "softmax", "sdpa", phase, preset.causal, BATCH, preset.heads, preset.kv_heads, n, m,
                    preset.head_dim, dtype)


def errors(prepared: Models, w: Workload) -> tuple[dict[str, float], float]:
    """Measures the errors of each quantised layer by name, and of the logits."""
    plain = prepared._plain(w)
    model = treatments.treat(plain, w)
    with treatments.layer_errors(plain, model) as layers:
        exact = prepared._outputs(plain, w.plain, prepared.inputs)["logits"]
    return layers, treatments.relative_error(prepared._outputs(model, w, prepared.inputs)["logits"], exact)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a model, dtype and method: errors relative to what they should be, root mean squares."""
    parser = argparse.ArgumentParser(prog="python -m perf.studies.quantisation_errors", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help=devices.HELP)
    parser.add_argument("--models", default=",".join(PRESETS))
    args = parser.parse_args(arguments)
    device = devices.device(args.device)
    print(f"{'model':<12}{'dtype':<6}{'method':<17}{'layers':>7}{'mean':>9}{'worst':>9}{'logits':>9}  worst layer")
    for name in args.models.split(","):
        for dtype in ("fp32", "bf16"):
            prepared = Models(workload(name, dtype), device)
            for method in quantizations():
                w = replace(workload(name, dtype), quantization=method)
                if reason := treatments.why_not(w, device):
                    print(f"{name:<12}{dtype:<6}{method:<17} {reason}", flush=True)
                    continue
                layers, logits = errors(prepared, w)
                worst = max(layers, key=lambda layer: layers[layer])
                print(f"{name:<12}{dtype:<6}{method:<17}{len(layers):>7}{sum(layers.values()) / len(layers):>9.4f}"
                      f"{layers[worst]:>9.4f}{logits:>9.4f}  {worst}", flush=True)


if __name__ == "__main__":
    main()
