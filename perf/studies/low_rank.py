"""Measures study 003: low-rank, Linformer, Performer, tiled and block-sparse attention against softmax attention.

    python -m perf.studies.low_rank --out low-rank.jsonl         # n 512 to 2K on a CPU: minutes; to 16K on a GPU
    python -m perf.studies.low_rank --out low-rank.jsonl --lengths 4k,8k --part kernels
    python -m perf.studies.low_rank --out tiny.jsonl --tiny --device cpu

The study has no code: its measures of success are asked of the variants of this project that compute what it names.
Text is Python's docstrings, read by a small GPT-2 trained with each attention from the same seed. Each claim is
printed with its published figure; that one fails is no error.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perf.studies import low_rank_claims, low_rank_stability
from perf.studies.claims import Claims
from perf.studies.low_rank_kernels import Kernels
from perf.studies.low_rank_rows import CPU, GPU, TINY, in_text, rows
from perf.studies.low_rank_text import Text
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.workloads.workload import parse_length

PARTS = ("kernels", "stability", "text")
LONGEST = 4096  # tokens whose n x n weights are looked at


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables, then each claim; 1 if a part could not be measured."""
    options = parser("low_rank", __doc__, PARTS)
    options.add_argument("--lengths", help="such as 512,4k")
    options.add_argument("--dtype", action="append", help="may be repeated (default: fp32 and bf16; fp16 on a GPU)")
    options.add_argument("--rank", type=int, action="append", help="k of low-rank scores; may be repeated")
    options.add_argument("--heads", type=int, help="of one sequence (default: 8)")
    options.add_argument("--steps", type=int, help="of training, each model (default: 150 on a CPU, 400 on a GPU)")
    options.add_argument("--limit", type=float, default=30.0, help="seconds of one measurement at most (default: 30)")
    args = options.parse_args(arguments)
    size = TINY if args.tiny else GPU if args.device.type == "cuda" else CPU
    size = replace(size, steps=size.steps if args.steps is None else args.steps, heads=args.heads or size.heads,
                   dtypes=tuple(args.dtype or size.dtypes), ranks=tuple(args.rank or size.ranks),
                   lengths=tuple(map(parse_length, args.lengths.split(","))) if args.lengths else size.lengths)
    study = Study(args.device, args.out, 60 * args.minutes)
    claims, chosen = Claims(study), rows(size)
    kernels, text = Kernels(study, size.heads, size.head_dim, args.limit), Text(study, size, args.limit)
    parts = args.part or PARTS
    if "kernels" in parts:
        for n in size.lengths:
            for dtype in size.dtypes:
                kernels.measure(chosen, n, dtype)
        if (at := 1024 if 1024 in size.lengths else min(size.lengths)) <= LONGEST:
            kernels.look_at_weights(chosen, at)
            kernels.look_at_inits(chosen, at)
        low_rank_claims.of_kernels(kernels, claims, chosen, size)
    if "stability" in parts:
        learned = [row for row in chosen if row.name.startswith(("low-rank", "Linformer"))]
        low_rank_stability.measure(study, claims, [*learned, chosen[0]], size.heads, size.head_dim,
                                   1024 if 1024 in size.lengths else size.lengths[0])
    if "text" in parts:
        text.measure(in_text(size))
        low_rank_claims.of_text(text, claims, size)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
