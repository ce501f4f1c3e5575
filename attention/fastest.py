"""Chooses the fastest variant by this machine's records: `attention.create("alibi:fastest", ...)`.

Records are the files of evidence, JSON lines, to which `pytest perf/ --benchmark-only` appends. The variable
ATTENTION_RECORDS names them, separated by colons; by default it is .perf/evidence.jsonl. They hold the functions'
default options.
"""
from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attention import registry

LOG = logging.getLogger("attention")
FASTEST = "fastest"  # replaces the backend in a variant's name
RECORDS = "ATTENTION_RECORDS"
DEFAULT = Path(".perf/evidence.jsonl")
WITHIN = 2.0  # a record of a length beyond this factor does not count


@dataclass(frozen=True)
class Timing:
    """A timing is a variant's median seconds for a call with these sizes, from a record."""

    variant: str
    seconds: float
    batch: int
    heads: int
    kv_heads: int
    n: int
    m: int


def machine(device: torch.device) -> str:
    """Gives the name of the GPU or the processor, as records name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def paths() -> list[Path]:
    """Lists the files of records to read."""
    return [Path(name) for name in os.environ.get(RECORDS, str(DEFAULT)).split(os.pathsep)]


def ranking(function: str, *, n: int, head_dim: int, causal: bool, dtype: str, phase: str, machine: str,
            files: Iterable[Path]) -> list[Timing]:
    """Lists the variants of `function` with a valid time on `machine`, the fastest first.

    All have the same sizes: those of the records whose length is nearest to `n`, and among these the sizes with the
    most variants. The list is empty if no record lies within a factor of two of `n`.
    """
    groups: dict[tuple[int, ...], dict[str, Timing]] = {}
    like = {"model": "attention", "function": function, "head_dim": head_dim, "causal": causal, "dtype": dtype,
            "phase": phase}
    for w, seconds in _rows(files, machine):
        if {name: w[name] for name in like} == like and 1 / WITHIN <= w["n"] / n <= WITHIN:
            sizes = tuple(w[name] for name in ("batch", "heads", "kv_heads", "n", "m"))
            variant = f"{function}:{w['backend']}"
            groups.setdefault(sizes, {})[variant] = Timing(variant, seconds, *sizes)  # the last record counts
    if not groups:
        return []
    nearest = min(groups, key=lambda sizes: (max(sizes[3] / n, n / sizes[3]), -len(groups[sizes])))
    return sorted(groups[nearest].values(), key=lambda timing: timing.seconds)


def _rows(files: Iterable[Path], machine: str) -> Iterator[tuple[dict[str, Any], float]]:
    """Yields each right workload of the runs on `machine` and its median."""
    for path in files:
        if not path.exists():
            continue
        ids = set()
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line) if line.strip() else {}
                if record.get("kind") == "machine":
                    ids |= {record["id"]} if machine == next(iter(record["gpus"]), record["cpu"]) else set()
                elif record.get("kind") == "evidence" and record["outcome"] == "ok" and record["machine"] in ids:
                    yield record["workload"], record["median"]


def choose(function: str, *, heads: int, kv_heads: int, head_dim: int, n: int | None, causal: bool, dtype: torch.dtype,
           device: torch.device, options: dict[str, Any]) -> Timing:
    """Chooses the fastest variant for calls of this kind: forward and backward, or forward under torch.no_grad().

    Raises ValueError without a length or a record, for an option that is not the default, and if the fastest variant
    can't be used here: no other variant replaces it.
    """
    name = f"{function}:{FASTEST}"
    described = registry.function(function)
    if n is None:
        raise ValueError(f"{name}: pass seq_len, the length for which it should be the fastest")
    if described.complete(options) != described.complete({}):
        raise ValueError(f"{name}: records hold the default options only; name a variant: "
                         f"{', '.join(registry.names(function))}")
    phase = "forward-backward" if torch.is_grad_enabled() else "forward"
    short = next(short for short, torch_dtype in registry.DTYPES.items() if torch_dtype == dtype)
    here = machine(device)
    ranks = ranking(function, n=n, head_dim=head_dim, causal=causal, dtype=short, phase=phase, machine=here,
                    files=paths())
    if not ranks:
        mask = "causal" if causal else "full"
        raise ValueError(f"{name}: no record on {here or device} of {phase}, {mask}, {short}, head_dim {head_dim} and "
                         f"a length within a factor of two of {n} in {', '.join(map(str, paths()))}; measure it by: "
                         f"python -m perf fastest {function} --n {n} --head-dim {head_dim} --phase {phase} "
                         f"--mask {mask} --dtype {short} --device {device.type}")
    best = ranks[0]
    reason = registry.why_not(best.variant, device=device, dtype=dtype, heads=heads, kv_heads=kv_heads,
                              head_dim=head_dim, n=n, causal=causal, grad=phase != "forward")
    if reason:
        raise ValueError(f"{name}: the fastest by the records can't be used here: {reason}; or name another: "
                         f"{', '.join(x.variant for x in ranks[1:]) or 'none is recorded'}")
    LOG.info("%s is %s: %.4g ms at n=%d", name, best.variant, 1e3 * best.seconds, best.n)
    return best
