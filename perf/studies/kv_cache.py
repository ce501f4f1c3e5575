"""Measures what a key/value cache of few bits saves and costs: its bytes, a decoding step's time and peak, its error.

    python -m perf.studies.kv_cache --out kv.jsonl                    # a CPU: fp32; a GPU: bf16, compiled

A step reads the whole cache: one query attends over all keys, which are unpacked first. The staircase (Li, arXiv
2410.18441) keeps the newest tokens whole and the next ones in 8 bits (`kv-quantised`). Its numbers are the function's,
which tests hold against its oracle. Putting a new token into the cache is not timed.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from attention import DTYPES
from attention.backends.compiling import compiled
from attention.functions.kv_quantised import Cache
from attention.testing import inputs
from perf.bench.treatments import relative_error
from perf.studies.claims import Cell, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.rounds import Call, able, side_by_side
from perf.workloads.workload import parse_length

BASE, GROUP, STAIRS = "whole", 64, 256
ROWS = {"8 bits": (8, 0), "4 bits": (4, 0), "staircase": (4, STAIRS)}


def attend(q_BH1D: torch.Tensor, k: Cache, v: Cache) -> torch.Tensor:
    """Unpacks a cache and attends over it."""
    return scaled_dot_product_attention(q_BH1D, k.unpack(), v.unpack())


def measure(study: Study, batch: int, heads: int, n: int, dtype: str, seconds: float) -> list[dict[str, Cell]]:
    """Measures all rows at one length; `heads` of 64."""
    q, k, v = (x.to(study.device, DTYPES[dtype]) for x in inputs(batch=batch, heads=heads, n=1, m=n, head_dim=64))
    calls: dict[str, Call] = {BASE: lambda: scaled_dot_product_attention(q, k, v)}
    sizes = {BASE: k.nbytes + v.nbytes}
    for name, (bits, stairs) in ROWS.items():
        old, new = (Cache(x, bits, GROUP, stairs) for x in (k, v))
        run = compiled(attend, dynamic=False) if study.device.type == "cuda" else attend
        calls[name] = functools.partial(run, q, old, new)
        sizes[name] = old.nbytes + new.nbytes
    calls = able(study, {name: torch.no_grad()(call) for name, call in calls.items()}, f"n={n}")
    lines: list[dict[str, Cell]] = []
    for name, figures in side_by_side(study, calls, seconds).items():
        line = {"n": n, "cache": name, "MB": sizes[name] / 1e6, "of whole": sizes[name] / sizes[BASE],
                "error": relative_error(calls[name](), calls[BASE]()), **figures}
        study.write("kv cache", {**line, "batch": batch, "heads": heads, "dtype": dtype, "group": GROUP})
        lines.append({key: value for key, value in line.items() if key not in ("ratio", "rounds")})
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record. 1 if a row could not be measured."""
    options = parser("kv_cache", __doc__)
    options.add_argument("--lengths", default="1k,4k,16k", help="tokens in the cache (default: 1k,4k,16k)")
    options.add_argument("--batch", type=int, help="sequences (default: 1; 16 on a GPU)")
    options.add_argument("--seconds", type=float, default=5.0, help="of a length's rounds (default: 5)")
    args = options.parse_args(arguments)
    study, gpu = Study(args.device, args.out, 60 * args.minutes), args.device.type == "cuda"
    lines: list[dict[str, Cell]] = []
    for n in [600] if args.tiny else map(parse_length, args.lengths.split(",")):
        with study.part(f"n={n}"):
            study.in_time()
            lines += measure(study, args.batch or (16 if gpu else 1), 2 if args.tiny else 8, n,
                             "bf16" if gpu else "fp32", 0.1 if args.tiny else args.seconds)
    print(table("a step of decoding over a cache, by the stopwatch; change of the whole cache's time; peak over the "
                "cache", lines))
    print(*[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
