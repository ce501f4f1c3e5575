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
from dataclasses import replace
from pathlib import Path

import torch

from perf.studies import tft_kernels, tft_quantised
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.tft_sizes import sizes


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
