"""Compiled code is known by its text: sides whose compiler wrote the same run the same, though their sources differ.

    graphs(events)   the graphs of torch.compile's inductor that ran in a profiled call, in that order
    kernels(graph)   [{"kernel", "code", "loops", "vectors"}, ...]: what inductor wrote for a CPU
    written(graphs)  hashes of the graphs' text, and of the bytecode and the guards by which torch.compile calls them

    with Ran(packages) as ran: call()
    ran.names        {"attention/module.py:Attention.forward", ...}: functions of the packages that Python ran

Comments are left out of the text, for they name variables of the source. What torch.compile only reads does not run,
so `Ran` does not name it.
"""
from __future__ import annotations

import ast
import cProfile
import gc
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

Facts = dict[str, Any]

_GRAPH = re.compile(r"## Call CompiledFxGraph (\w+) ##")
_KERNEL = re.compile(r"^(\w+) = async_compile\.cpp\w*\(.*?'''\n(.*?)^'''", re.MULTILINE | re.DOTALL)
_WITHIN = re.compile(r"(\.<locals>\.<\w+>)+$")  # a lambda or a comprehension is a part of its function
_NUMBERED = re.compile(r"(__compiled_fn_|__resume_at_)\w+")
_GUARD = re.compile(r"\+- (\w+)")


def graphs(events: Iterable[Any]) -> list[Any] | None:
    """Finds the graphs that ran by the keys that the profiler names; None where one is not alive, or has no key."""
    keys = [found[1] for event in events if (found := _GRAPH.match(event.name()))]
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


def written(ran: Sequence[Any]) -> list[str] | None:
    """Gives the hashes of all that torch.compile wrote and that runs; None where this version does not show it."""
    if "torch._dynamo" not in sys.modules:
        return []
    try:
        return [*map(_graph, ran), *sorted(_entries())]
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
            made = entry.code
            names = [_NUMBERED.sub(r"\1", name) for name in made.co_names]
            constants = [one if isinstance(one, int | float | str | bytes | None) else type(one).__name__
                         for one in made.co_consts]
            guards = sorted(Counter(_GUARD.findall(str(entry.guard_manager))).items())
            yield _hash(repr((made.co_code, names, constants, guards)))


class Ran:
    """Collects the functions of some packages that run in this thread, each time that it is entered.

    `generated` tells whether the last time code ran that is in no file, as graphs of torch.compile's backend "eager".
    """

    def __init__(self, packages: Collection[str]) -> None:
        self.packages = packages
        self.names: set[str] = set()
        self.generated = False

    def __enter__(self) -> Ran:
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
