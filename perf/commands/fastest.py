"""Ranks the backends of a function by their time on this machine, and prints the line of Python that uses the first.

The records are those of earlier runs on this kind of machine, the published ones and this checkout's; what they lack is
measured, by the benchmarks, and appended to them.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perf.commands.parser import Commands, command
from perf.system.devices import HELP, device
from perf.system.exit_codes import OK
from perf.workloads.workload import BARE_PHASES, ITEM_BYTES

if TYPE_CHECKING:
    from attention.fastest import Timing

RECORDS = Path(__file__).parents[1] / "records"


def add(commands: Commands) -> None:
    parser = command(commands, "fastest", run, __doc__)
    parser.add_argument("function", metavar="FUNCTION")
    parser.add_argument("--n", type=int, required=True, help="the length")
    parser.add_argument("--head-dim", type=int, default=64, help="default: 64")
    parser.add_argument("--phase", choices=BARE_PHASES, default="forward-backward", help="default: forward-backward")
    parser.add_argument("--mask", choices=("causal", "full"), default="causal", help="default: causal")
    parser.add_argument("--device", help=HELP)
    parser.add_argument("--dtype", choices=tuple(ITEM_BYTES), help="default: bf16 on a GPU, else fp32")
    parser.add_argument("--measure", action="store_true", help="measure anew, whatever the records hold")
    parser.set_defaults(pytest=[])


def run(options: argparse.Namespace) -> int:
    """Prints the ranking and a line of Python. Raises ValueError, in one line, for what can't be ranked."""
    from attention.registry import function

    function(options.function)  # raises for an unknown one
    if options.n < 1:
        raise ValueError(f"--n {options.n}: a length is at least 1")
    options.device = str(device(options.device))
    options.dtype = options.dtype or ("bf16" if options.device.startswith("cuda") else "fp32")
    ranks = [] if options.measure else _ranks(options)
    if not ranks:
        _measure(options)
        ranks = _ranks(options)
    if not ranks:
        raise ValueError(f"{options.function}: no backend could be measured; the rows above say why")
    print(table(ranks))
    print(f"\n{use(ranks[0], options)}")
    return OK


def table(ranks: Sequence[Timing]) -> str:
    """Writes a line a variant: its time, and how many times the fastest's that is."""
    first = ranks[0]
    width = max(len(timing.variant) for timing in ranks)
    sizes = f"batch {first.batch}, heads {first.heads}, kv_heads {first.kv_heads}, n {first.n}, m {first.m}"
    lines = [f"{timing.variant:{width}}  {1e3 * timing.seconds:9.4g} ms  {timing.seconds / first.seconds:6.2f}x"
             for timing in ranks]
    return "\n".join([sizes, *lines])


def use(timing: Timing, options: argparse.Namespace) -> str:
    """Writes the line of Python that builds the variant as it was timed."""
    from attention.registry import DTYPES

    shared = "" if timing.kv_heads == timing.heads else f"kv_heads={timing.kv_heads}, "
    dtype = str(DTYPES[options.dtype])
    return (f'attention.create("{timing.variant}", heads={timing.heads}, {shared}head_dim={options.head_dim}, '
            f'seq_len={options.n}, causal={options.mask == "causal"}, device="{options.device}", dtype={dtype})')


def _ranks(options: argparse.Namespace) -> list[Timing]:
    import torch

    from attention import fastest

    published = sorted(RECORDS.glob("*/*.jsonl.gz"), key=lambda path: path.parent.name[-10:])  # by day; the last counts
    here = fastest.machine(torch.device(options.device))
    return fastest.ranking(options.function, n=options.n, head_dim=options.head_dim, causal=options.mask == "causal",
                           dtype=options.dtype, phase=options.phase, machine=here,
                           files=[*published, *fastest.paths()])


def _measure(options: argparse.Namespace) -> None:
    from attention import fastest

    axes = {"functions": options.function, "seqlens": options.n, "head-dims": options.head_dim,
            "phases": options.phase, "causal": options.mask, "dtypes": options.dtype, "device": options.device,
            "evidence": fastest.paths()[-1]}
    command = [sys.executable, "-m", "pytest", "perf/test_attention.py", "--benchmark-only", "-q",
               *(f"--perf-{name}={value}" for name, value in axes.items()), *options.pytest]
    print(" ".join(command[1:]), file=sys.stderr)
    if subprocess.run(command).returncode in (2, 3, 4):  # interrupted, an error of pytest's own, or of its use
        raise ValueError("the measurement did not run; its own words are above")
