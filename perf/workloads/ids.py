"""An id names its workload: this is the inverse of `Workload.id`.

    workload("softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32")    # ValueError for what is none of ours
    parse(text)["backend"]                                                  # of any project's id, without torch
"""
from __future__ import annotations

import re
from typing import TypedDict

from perf.workloads.workload import BARE, BARE_PHASES, ITEM_BYTES, SIZES, UNQUANTISED, Workload

EXAMPLE = "softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32"
PHASES = (*BARE_PHASES, "prefill", "decode", "train-step")

LONGEST = 500  # characters
_PHASE = "|".join(sorted(PHASES, key=len, reverse=True))  # "forward-backward" before "forward"
_ID = re.compile(
    rf"(?P<what>.+?):(?P<backend>.+?)-(?P<phase>{_PHASE})-(?P<mask>causal|full)"
    r"-b(?P<batch>\d+)-h(?P<heads>\d+)-kv(?P<kv_heads>\d+)-n(?P<n>\d+)-m(?P<m>\d+)-d(?P<head_dim>\d+)"
    rf"-(?P<dtype>{'|'.join(ITEM_BYTES)})(?:-(?P<quantization>(?!compiled$).+?))?(?P<compiled>-compiled)?")


class Parts(TypedDict):
    """Holds the parts of an id; `what` is the function, behind the model's name and a hyphen if there is one."""

    what: str
    backend: str
    phase: str
    mask: str
    batch: str
    heads: str
    kv_heads: str
    n: str
    m: str
    head_dim: str
    dtype: str
    quantization: str | None
    compiled: str | None


def parse(name: str) -> Parts | None:
    """Splits an id, as it is or as pytest prints it: `test_attention[ID]`. Returns None for what is no id."""
    if len(name) > LONGEST:
        return None  # the expression would try for minutes
    match = _ID.fullmatch(name.strip().rpartition("[")[2].removesuffix("]"))
    return Parts(**match.groupdict()) if match else None  # type: ignore[typeddict-item]


def workload(name: str, *, registered: bool = True) -> Workload:
    """Returns the workload of an id. Raises ValueError, in one line, for what is none of this project; unless
    `registered`, only for what is no id: another revision may have what this one lacks."""
    from attention.registry import variant
    from models import presets
    from perf.workloads.grids import quantizations

    parts = parse(name)
    if parts is None:
        raise ValueError(f"unknown benchmark {name!r:.500}; give the id of a test, such as {EXAMPLE}")
    what, method = parts["what"], parts["quantization"]
    model = next((one for one in sorted(presets(), key=len, reverse=True) if what.startswith(f"{one}-")), BARE)
    function = what.removeprefix(f"{model}-")
    if registered:
        variant(f"{function}:{parts['backend']}")  # raises
    if registered and method is not None and method not in quantizations():
        raise ValueError(f"unknown quantization {method!r} in {name!r}; choose from {', '.join(quantizations())}")
    batch, heads, kv_heads, n, m, head_dim = (int(parts[size]) for size in SIZES)  # type: ignore[literal-required]
    return Workload(model, function, parts["backend"], parts["phase"], parts["mask"] == "causal", batch, heads,
                    kv_heads, n, m, head_dim, parts["dtype"], method or UNQUANTISED, bool(parts["compiled"]))
