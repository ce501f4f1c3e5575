"""Study 000, measured again: a Temporal Fusion Transformer on three kernels of softmax attention, and quantised.

    python -m perf.studies.tft --out tft.jsonl                    # a small TFT on a CPU: minutes; the study's on a GPU
    python -m perf.studies.tft --out tft.jsonl --size study       # the study's width, 168 steps to 24, anywhere
    python -m perf.studies.tft --out tiny.jsonl --tiny --device cpu

Both sides of a comparison have one dtype, one set of weights to start from, and as many queries; the study's own
attention stands beside them under its own name, with its faults. Data: statsmodels' monthly series, scaled by their
training part, held out in time. Each claim is printed with its published figure; that one fails is no error.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import models
from models.registry import Preset
from perf.studies import tft_kernels, tft_quantised
from perf.studies.claims import Claims
from perf.studies.measuring import Study


@dataclass(frozen=True)
class Size:
    """Presets, and how long and how wide the knobs are turned. `steps`, `large_steps`: of training; 0 is none, and the
    large model is measured without any too."""

    small: Preset
    large: Preset
    batches: tuple[int, ...]
    heads: tuple[int, ...]
    steps: int
    large_steps: int
    windows: int  # that one timed call of 000b forecasts
    dtypes: tuple[str, ...] = ("fp32", "bf16")

    @property
    def batch(self) -> int:
        return self.batches[0]


def sizes(name: str, cuda: bool) -> Size:
    """"tiny"; "small", the CPU's: hidden 80, 36 months to 12; "study", the GPU's: hidden 160, 168 to 24."""
    if name == "tiny":
        tiny = replace(models.get("tft-monthly").resized(context=12, horizon=4, variable=4), heads=4, kv_heads=4,
                       head_dim=4)
        return Size(tiny, replace(tiny, name="tft-larger", head_dim=8), (4, 8), (4,), 3, 0, 4)
    small = models.get("tft-monthly").resized(heads=4)
    large = replace(small, name="tft-53m", head_dim=256)  # 52 million parameters
    if name == "small":
        return Size(small, large, (64, 128), (1, 4), 300, 20, 8)
    study = models.get("tft-160").resized(static=(3,), known=3)
    return Size(study, replace(study, name="tft-53m", head_dim=256), (64, 128, 256), (1, 4), 1000 if cuda else 20,
                300 if cuda else 0, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the rows of 000a and 000b, then each claim; 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m perf.studies.tft", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file that records are appended to, JSON lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=("small", "study"), help="default: small on a CPU, study on a GPU")
    parser.add_argument("--tiny", action="store_true", help="the smallest models: shows that it runs, and no finding")
    parser.add_argument("--part", action="append", default=[], choices=("kernels", "quantised"), help="only this part")
    parser.add_argument("--steps", type=int, help="of training, each small model")
    parser.add_argument("--large-steps", type=int, help="of training of the large model (0: random weights)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one measurement at most (default: 60)")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    size = sizes("tiny" if given.tiny else given.size or ("study" if cuda else "small"), cuda)
    for name in ("steps", "large_steps"):
        if getattr(given, name) is not None:
            size = replace(size, **{name: getattr(given, name)})
    study = Study(device, given.out)
    claims = Claims(study)
    for part, measure in (("kernels", tft_kernels.measure), ("quantised", tft_quantised.measure)):
        if part in (given.part or ("kernels", "quantised")):
            measure(study, claims, size, given.limit)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
