"""Launches of device kernels, and the code of Triton's, are facts by which two sides are compared without a time.

    launches(record)     [{"kernel", "grid", "block", "registers", "shared"}, ...] in the order in which they ran
    with_code(launches)  the same, and of a Triton kernel "code" (a hash of its source and options), "spills",
                         "stages", "warps" and "tile"

The launches come from the trace that the profiler saves, for its events tell nothing of them in torch 2.11. The code
comes from the kernels that Triton and torch's inductor keep alive in this process; a library's kernel is known by its
name, and both sides use the same library.
"""
from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
FACTS = {"registers per thread": "registers", "shared memory": "shared", "grid": "grid", "block": "block",
         "est. achieved occupancy %": "occupancy"}


def launches(record: Any) -> list[Facts]:
    """Reads the kernels of a profiler's record, which can save itself as a trace."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.save(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    ran = sorted((event for event in events if event.get("cat") == "kernel" and "grid" in event["args"]),
                 key=lambda event: event["ts"])
    return [{"kernel": event["name"].removeprefix("void ")}
            | {mine: event["args"][theirs] for theirs, mine in FACTS.items() if theirs in event["args"]}
            for event in ran]


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
