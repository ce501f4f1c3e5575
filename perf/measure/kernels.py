"""The kernel that ran is held against what the backend declares: a fallback is an error, not a slow row.

Seen: `torch.compile` of FlexAttention past its recompile limit runs the dense path without a word; an
SDPA call lands on another of PyTorch's kernels.
"""
from __future__ import annotations

import re
from collections.abc import Iterable

from attention.backends.base import Backend, Case, Kernels
from attention.registry import DTYPES, variant
from perf.measure.shares import brief
from perf.workloads.workload import Workload

BACKWARD_TOO = ("forward-backward", "train-step")  # every other phase is a forward pass, or "backward"
SHOWN = 5  # names in a message

_TELLING = re.compile(r"softmax|attention|flash|fmha|gemm|nvjet|cutlass|triton|::\w*mm$|_fft|CompiledFxGraph", re.I)


def wrong_kernel(names: Iterable[str], w: Workload, device_type: str) -> str | None:
    """Says, in one line, how the names that a call of `w` showed (`Counts.kernels`) differ from what its backend
    declares; None where they don't.

    What a backend never runs is asked of bare kernels only, of exact and structured functions: a model and
    an approximation have products of their own.
    """
    v = variant(w.variant)
    case = Case(device_type, DTYPES[w.dtype], w.heads, w.kv_heads, w.head_dim, w.n, w.m, w.causal,
                w.phase == "backward" or w.phase in BACKWARD_TOO, False)
    declared = v.backend.expects(case)
    by_case = type(v.backend).expects is not Backend.expects
    # That case is not what the kernel gets where inputs are projected, or a bias with a gradient is added.
    if declared is None or (by_case and (v.function.kind == "approximate" or v.function.parameters is not None)):
        return None
    alone = w.bare and v.function.kind != "approximate"
    sentence = mismatch(set(names), declared, w.phase, alone=alone)
    return f"{w.variant} ({w.phase}) {sentence}" if sentence else None


def mismatch(names: set[str], declared: Kernels, phase: str, *, alone: bool) -> str | None:
    """Says which of the names that `declared` asks for is missing, or which is there against it."""
    expected = [declared.backward] if phase == "backward" else [declared.forward]
    if phase in BACKWARD_TOO:
        expected.append(declared.backward)
    for patterns in expected:
        if patterns and not _matching(names, patterns):
            return f"ran {_list(names)}; expected a kernel matching {' or '.join(patterns)}"
    if alone and (against := _matching(names, declared.never)):
        return f"ran {_list(against)}; expected none matching {' or '.join(declared.never)}"
    return None


def _matching(names: set[str], patterns: Iterable[str]) -> set[str]:
    return {name for name in names if any(re.search(pattern, name) for pattern in patterns)}


def _list(names: set[str]) -> str:
    """Lists a few names, those that tell most, without template arguments and parameters."""
    if not names:
        return "nothing that the profiler saw"
    short = set(map(brief, names))
    telling = sorted(name for name in short if _TELLING.search(name)) or sorted(short)
    more = len(short) - SHOWN if len(telling) > SHOWN else 0
    return ", ".join(telling[:SHOWN]) + (f" and {more} more" if more else "")
