"""Launches of device kernels, and the code of Triton's, are facts by which two sides are compared without a time.

    launches(events)     [{"kernel", "grid", "block", "registers", "shared"}, ...] in the order in which they ran
    with_code(launches)  the same, and of a Triton kernel "code" (a hash of its source and options), "spills",
                         "stages", "warps" and "tile"

The launches come from the profiler's record of each kernel. The code comes from the kernels that Triton and torch's
inductor keep alive in this process; a library's kernel is known by its name, and both sides use the same library.
"""
from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch.autograd import DeviceType

Facts = dict[str, Any]
FACTS = {"registers per thread": "registers", "shared memory": "shared", "grid": "grid", "block": "block",
         "est. achieved occupancy %": "occupancy"}
COPIES = ("Memcpy", "Memset")


def launches(events: Iterable[Any]) -> list[Facts]:
    """Reads the kernels of a profiler's record; none where this version of torch tells nothing of them."""
    starts = []
    for event in events:
        if event.device_type() != DeviceType.CUDA or event.is_user_annotation() or event.name().startswith(COPIES):
            continue
        record = _metadata(event)
        if "grid" in record:
            starts.append((event.start_ns(), {"kernel": event.name().removeprefix("void ")} | {
                mine: record[theirs] for theirs, mine in FACTS.items() if theirs in record}))
    return [facts for _, facts in sorted(starts, key=lambda start: start[0])]


def _metadata(event: Any) -> Facts:
    """Reads what the profiler keeps of a kernel as JSON, with braces or without."""
    text = str(event.metadata_json()).strip() if hasattr(event, "metadata_json") else ""
    try:
        return json.loads(text if text.startswith("{") else f"{{{text}}}")
    except ValueError:
        return {}


def with_code(launches: Sequence[Facts]) -> list[Facts]:
    """Adds what is known of the code of Triton's kernels. A tuner makes several of one name: the one with the registers
    of the launch counts."""
    if "triton" not in sys.modules:
        return list(launches)
    known: dict[str, list[Facts]] = {}
    for one in gc.get_objects():
        if facts := _code(one):
            known.setdefault(facts.pop("kernel"), []).append(facts)
    return [launch | _like(launch, known.get(launch["kernel"], [])) for launch in launches]


def _like(launch: Facts, known: Sequence[Facts]) -> Facts:
    """Gives the facts of the one code that the launch can be of; none where it can be of several."""
    same = [facts for facts in known if facts.get("registers") in (None, launch.get("registers"))] or known
    codes = {facts["code"]: facts for facts in same}
    if len(codes) != 1:
        return {}
    return {name: value for name, value in next(iter(codes.values())).items() if name != "registers"}


def _code(one: Any) -> Facts | None:
    """Reads the facts of an object that is a kernel of Triton's, or what inductor's tuner made of one."""
    kind = type(one).__name__
    if kind.endswith("CompileResult"):
        kernel, config = getattr(one, "kernel", None), getattr(one, "config", None)
    elif kind == "CompiledKernel":
        kernel, config = one, None
    else:
        return None
    metadata = getattr(kernel, "metadata", None)
    name, code = getattr(kernel, "name", None) or getattr(metadata, "name", None), getattr(kernel, "hash", None)
    if not (name and code):
        return None
    options = config or metadata
    facts = {"kernel": name, "code": code, "registers": getattr(kernel, "n_regs", None),
             "spills": getattr(kernel, "n_spills", None), "stages": getattr(options, "num_stages", None),
             "warps": getattr(options, "num_warps", None), "tile": dict(getattr(config, "kwargs", None) or {}) or None}
    return {fact: value for fact, value in facts.items() if value is not None}
