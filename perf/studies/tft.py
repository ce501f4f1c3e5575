"""Measures study 000 again: a Temporal Fusion Transformer on three kernels of softmax attention, and quantised.

    python -m perf.studies.tft --out tft.jsonl                    # a small TFT on a CPU: minutes; the study's on a GPU
    python -m perf.studies.tft --out tft.jsonl --size study       # the study's width, 168 steps to 24, anywhere
    python -m perf.studies.tft --out tiny.jsonl --tiny --device cpu

Both sides of a comparison have one dtype, one set of weights to start from, and as many queries; the study's own
attention stands beside them under its own name, with its faults. Data: statsmodels' monthly series, scaled by their
training part, held out in time. Each claim is printed with its published figure; that one fails is no error.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perf.studies import tft_kernels, tft_quantised
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.tft_sizes import sizes

PARTS = {"kernels": tft_kernels.measure, "quantised": tft_quantised.measure}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the rows of 000a and 000b, then each claim; 1 if a part could not be measured."""
    options = parser("tft", __doc__, PARTS)
    options.add_argument("--size", choices=("small", "study"), help="default: small on a CPU, study on a GPU")
    options.add_argument("--dtype", action="append", help="of 000a; may be repeated (default: fp32 and bf16)")
    options.add_argument("--steps", type=int, help="of training, each small model")
    options.add_argument("--large-steps", type=int, help="of training of the large model (0: random weights)")
    options.add_argument("--limit", type=float, default=60.0, help="seconds of one measurement at most (default: 60)")
    args = options.parse_args(arguments)
    cuda = args.device.type == "cuda"
    size = sizes("tiny" if args.tiny else args.size or ("study" if cuda else "small"), cuda)
    size = replace(size, dtypes=tuple(args.dtype or size.dtypes))
    for name in ("steps", "large_steps"):
        if getattr(args, name) is not None:
            size = replace(size, **{name: getattr(args, name)})
    study = Study(args.device, args.out, 60 * args.minutes)
    claims = Claims(study)
    for part, measure in PARTS.items():
        if part in (args.part or PARTS):
            measure(study, claims, size, args.limit)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
