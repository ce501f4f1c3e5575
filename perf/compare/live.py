"""What commands compare by live pairs: which benchmark, and what counts as a change of it."""
from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from perf.compare import pairs
from perf.policy.thresholds import FILE, Thresholds, thresholds
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, BARE_PHASES, UNQUANTISED, Workload

EXAMPLE = "softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32"
SIZES = r"b(\d+)-h(\d+)-kv(\d+)-n(\d+)-m(\d+)-d(\d+)"  # batch, heads, kv_heads, n, m, head_dim

# Workloads of one variant, base folder, head folder, seconds -> a verdict on each.
Compare = Callable[[Sequence[Workload], Path, Path, float], Iterable[tuple[Workload, Verdict]]]


def workload(name: str) -> Workload:
    """The workload of an id, as a table of verdicts or pytest prints it: `test_attention[softmax:sdpa-forward-...]`.

    Raises ValueError, in one line, for what is none of this project.
    """
    from attention.registry import DTYPES, variant
    from models import presets
    from perf.workloads.grids import quantizations

    known = dict.fromkeys((*BARE_PHASES, *(phase for preset in presets().values() for phase in preset.phases)))
    phases = "|".join(sorted(known, key=len, reverse=True))  # "forward-backward" before "forward"
    whole = name.strip().rpartition("[")[2].removesuffix("]")
    found = re.fullmatch(f"(?P<what>.+?:.+?)-(?P<phase>{phases})-(?P<mask>causal|full)-{SIZES}-"
                         f"(?P<dtype>{'|'.join(DTYPES)})(?:-(?P<quantization>(?!compiled$).+?))?"
                         "(?P<compiled>-compiled)?", whole)
    if found is None:
        raise ValueError(f"unknown benchmark {name!r}; give the id of a test, such as {EXAMPLE}")
    what, phase, mask, dtype = found.group("what", "phase", "mask", "dtype")
    batch, heads, kv_heads, n, m, head_dim = map(int, found.groups()[3:9])
    model = next((model for model in sorted(presets(), key=len, reverse=True) if what.startswith(f"{model}-")), BARE)
    function, _, backend = what.removeprefix(f"{model}-").partition(":")
    variant(f"{function}:{backend}")  # raises
    if (method := found["quantization"]) is not None and method not in quantizations():
        raise ValueError(f"unknown quantization {method!r} in {name!r}; choose from {', '.join(quantizations())}")
    return Workload(model, function, backend, phase, mask == "causal", batch, heads, kv_heads, n, m, head_dim,
                    dtype, found["quantization"] or UNQUANTISED, bool(found["compiled"]))


def settings(w: Workload, among: int = 1) -> Thresholds:
    """What counts as a change of this benchmark, one of `among` that are compared together."""
    return thresholds(w.id, tomllib.loads(FILE.read_text(encoding="utf-8"))).among(among)


def comparing(device: torch.device, among: int = 1) -> Compare:
    """Live pairs on the device, whose progress goes to stderr; `among`: as in `settings`."""
    def compare(workloads: Sequence[Workload], base: Path, head: Path,
                seconds: float) -> Iterator[tuple[Workload, Verdict]]:
        return pairs.compare(workloads, base, head, str(device), lambda w: settings(w, among), seconds,
                             lambda line: print(f"    {line}", file=sys.stderr, flush=True))

    return compare
