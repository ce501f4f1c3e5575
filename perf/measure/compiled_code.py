"""Compiled code is known by its text: sides whose compiler wrote the same run the same, though their sources differ.

    graphs(events)       the graphs of torch.compile's inductor that ran in a profiled call, in that order
    kernels(graph)       [{"kernel", "code", "loops", "vectors"}, ...]: what inductor wrote for a CPU
    code_hashes(graphs)  hashes of the graphs' text, and of the bytecode and guards by which torch.compile calls them

    launches(record)     [{"kernel", "grid", "block", "registers", "shared"}, ...] in the order in which they ran
    with_occupancy(launches, gpu)  the same, and "occupancy"
    with_code(launches)  the same, and of a Triton kernel "code" (a hash of its source and options), "spills",
                         "stages", "warps" and "tile"

    with FunctionTrace(packages) as trace: call()
    trace.names          {"attention/module.py:Attention.forward", ...}: functions of the packages that Python ran

Comments are left out of the text, for they name variables of the source. What torch.compile only reads does not run,
so the trace does not name it. Launches come from the trace that the profiler saves, for its events tell nothing of
them in torch 2.11; their code comes from the kernels that Triton and torch's inductor keep alive in this process. A
library's kernel is known by its name, and both sides use the same library.
"""
from __future__ import annotations

import ast
import cProfile
import gc
import hashlib
import json
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Facts = dict[str, Any]

FACTS = {"registers per thread": "registers", "shared memory": "shared", "grid": "grid", "block": "block"}
# Of a multiprocessor since compute capability 8: its registers, the portions in which a warp gets them, warps likewise,
# and the shared bytes that each block takes for the driver.
REGISTERS, PORTION, WARPS, RESERVED = 65536, 256, 4, 1024

_GRAPH = re.compile(r"## Call CompiledFxGraph (\w+) ##")
_KERNEL = re.compile(r"^(\w+) = async_compile\.cpp\w*\(.*?'''\n(.*?)^'''", re.MULTILINE | re.DOTALL)
_WITHIN = re.compile(r"(\.<locals>\.<\w+>)+$")  # a lambda or a comprehension is a part of its function
_NUMBERED = re.compile(r"(__compiled_fn_|__resume_at_)\w+")
_GUARD = re.compile(r"\+- (\w+)")


def graphs(events: Iterable[Any]) -> list[Any] | None:
    """Finds the graphs that ran by the keys that the profiler names; None where one is not alive, or has no key."""
    keys = [match[1] for event in events if (match := _GRAPH.match(event.name()))]
    if not keys:
        return []
    objects: list[Any] = gc.get_objects()
    alive = {one._fx_graph_cache_key: one for one in objects
             if type(one).__name__ == "CompiledFxGraph" and hasattr(one, "_fx_graph_cache_key")}
    return [alive[key] for key in keys] if alive.keys() >= set(keys) else None


def kernels(graph: Any) -> list[Facts]:
    """Reads the C++ kernels in the text of a graph, with the number of their loops and of their vectors."""
    return [{"kernel": name, "code": _hash(text), "loops": text.count("for("), "vectors": text.count("at::vec::Vec")}
            for name, text in _KERNEL.findall(graph.source_code)]


def code_hashes(graphs: Sequence[Any]) -> list[str] | None:
    """Gives the hashes of all that torch.compile wrote and that runs; None where this version does not show it."""
    if "torch._dynamo" not in sys.modules:
        return []
    try:
        return [*map(_graph, graphs), *sorted(_entries())]
    except (ImportError, AttributeError, TypeError):
        return None


def _graph(graph: Any) -> str:
    constants = {name: (str(one.dtype), list(one.shape), one.detach().cpu().reshape(-1).tolist())
                 for name, one in (graph.constants or {}).items()}
    return _hash(f"{ast.dump(ast.parse(graph.source_code))} {constants}")


def _entries() -> Iterator[str]:
    """Yields a hash of each bytecode that dynamo wrote, and of its guards: how many there are of each kind."""
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list
    from torch._dynamo.convert_frame import input_codes

    for code in filter(None, [reference() for reference in input_codes.seen]):
        for entry in _debug_get_cache_entry_list(code):
            code_object = entry.code
            names = [_NUMBERED.sub(r"\1", name) for name in code_object.co_names]
            constants = [one if isinstance(one, int | float | str | bytes | None) else type(one).__name__
                         for one in code_object.co_consts]
            guards = sorted(Counter(_GUARD.findall(str(entry.guard_manager))).items())
            yield _hash(repr((code_object.co_code, names, constants, guards)))


class FunctionTrace:
    """Collects the functions of some packages that run in this thread, each time that it is entered.

    `generated` tells whether the last time code ran that is in no file, as graphs of torch.compile's backend "eager".
    """

    def __init__(self, packages: Collection[str]) -> None:
        self.packages = packages
        self.names: set[str] = set()
        self.generated = False

    def __enter__(self) -> FunctionTrace:
        self._profile = cProfile.Profile(builtins=False)
        self._profile.enable()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.disable()
        codes = [entry.code for entry in self._profile.getstats() if not isinstance(entry.code, str)]
        paths = {getattr(module, "__file__", None): f"{name.replace('.', '/')}.py"
                 for name, module in list(sys.modules.items()) if name.partition(".")[0] in self.packages}
        self.names |= {f"{paths[code.co_filename]}:{_WITHIN.sub('', code.co_qualname)}" for code in codes
                       if code.co_filename in paths}
        self.generated = any(code.co_filename.startswith("<eval_with_key>") for code in codes)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def with_occupancy(launches: Sequence[Facts], gpu: Any) -> list[Facts]:
    """Adds the percent of a GPU's warps that each launch can have at once, by its registers, shared memory and grid;
    `gpu` is what torch tells of it. The profiler's estimate is 0 for blocks of more than 48 KiB (torch 2.11)."""
    warp, most = gpu.warp_size, gpu.max_threads_per_multi_processor // gpu.warp_size

    def percent(launch: Facts) -> float:
        warps = math.ceil(math.prod(launch["block"]) / warp)
        of_warp = math.ceil(max(1, launch["registers"]) * warp / PORTION) * PORTION
        blocks = min(most // warps, REGISTERS // of_warp // WARPS * WARPS // warps,
                     gpu.shared_memory_per_multiprocessor // (launch["shared"] + RESERVED),
                     math.prod(launch["grid"]) / gpu.multi_processor_count)
        return round(100 * warps * blocks / most, 1)

    known = hasattr(gpu, "shared_memory_per_multiprocessor")
    return [launch | ({"occupancy": percent(launch)} if known and launch.keys() >= {*FACTS.values()} else {})
            for launch in launches]


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
