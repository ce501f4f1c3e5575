"""Words put a verdict's reasons as an engineer would: "7.2 % slower [6.1, 8.4], 12 pairs; 3 more kernel launches:
aten::clone"."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

SHOWN = 3  # names
NAMES = {
    "launches": ("kernel launch", "kernel launches"), "memcpys": ("memory copy", "memory copies"),
    "memsets": ("memory set", "memory sets"), "operators": ("operator", "operators"),
    "host_syncs": ("wait of the host", "waits of the host"), "graph_breaks": ("graph break", "graph breaks"),
    "recompiles": ("recompilation", "recompilations"), "compiled_regions": ("compiled region", "compiled regions"),
    "autograd_nodes": ("autograd node", "autograd nodes"),
    "peak_bytes": "peak memory", "kept_bytes": "memory kept between calls", "flops": "FLOPs", "bytes": "bytes to move",
}
LAUNCHED = {"spills": "spilled registers", "registers": "registers", "stages": "stages", "warps": "warps",
            "loops": "loops", "vectors": "vectors",
            "shared": "shared bytes", "occupancy": "occupancy %", "tile": "tile", "grid": "grid", "block": "block"}

# Names of the inner operation of PyTorch's elementwise and reduction templates: "direct_copy_kernel_cuda".
_GENERIC = re.compile(r"elementwise_kernel|reduce_kernel")
_INNER = re.compile(r"\b(?!(?:Binary|AUnary|BUnary)Functor|gpu_|func_wrapper)\w*(?:[Ff]unctor|_kernel)\w*")


def times(middle: float, half: float, pairs: int) -> str:
    """Writes a log ratio and half its interval: "7.2 % slower [6.1, 8.4], 12 pairs". For a faster head the interval too
    says by how much less time it takes."""
    way = -1 if middle < 0 else 1
    amount, ends = _figure(_value(middle, way)), sorted(_value(middle + side * half, way) for side in (-1, 1))
    change = f"{amount} % {'faster' if way < 0 else 'slower'}" if float(amount) else "the same time"
    between = f"[{_figure(ends[0])}, {_figure(ends[1])}]" if math.isfinite(half) else "(no interval yet)"
    return f"{change} {between}, {many(pairs, 'pair')}"


def within(log_ratio: float) -> str:
    """Writes how far from the same a time may be at most: "within 0.8 %"."""
    return f"within {_figure(_value(log_ratio, 1))} %"


def pairs_to_decide(certified: float | None, more: int, about: str) -> str:
    """Writes what the pairs could have told apart, and how many more would tell."""
    could = "" if certified is None else f"can tell changes from {_figure(100 * certified)} % on; "
    return f"{could}{about} {many(more, 'more pair')} would decide"


def count_change(name: str, more: int, came: Mapping[str, int] | None = None,
                 went: Mapping[str, int] | None = None) -> str:
    """Writes "3 more kernel launches: aten::clone"; for "kernels", "other kernels: a for b"."""
    if name == "kernels":
        there = [f"{'' if not went else 'other '}kernels: {_list(came)}" if came else "",
                 f"{'for' if came else 'without'} {_list(went)}" if went else ""]
        return " ".join(part for part in there if part)
    one, several = NAMES[name]
    amount = f"{abs(more)} {'more' if more > 0 else 'fewer'} {one if abs(more) == 1 else several}"
    return f"{amount}: {_list(came)}" if came else amount


def size_change(name: str, old: int, new: int) -> str:
    """Writes "peak memory 1.25x (2.5 MB more)"."""
    change = f"{_amount(abs(new - old))}{'B' if name.endswith('bytes') else ''} {'more' if new > old else 'less'}"
    return f"{NAMES[name]} {new / old:.4g}x ({change})" if old else f"{NAMES[name]}: {change}"


def error_change(old: float, new: float) -> str:
    return f"error {new / old:.3g}x: {new:.2g}" if old else f"error {new:.2g}, was exactly 0"


def compile_change(old: float, new: float) -> str:
    """Writes "compiles in 41.2 s, was 19.6 s (2.10x)"."""
    return f"compiles in {new:.1f} s, was {old:.1f} s ({new / old:.2f}x)" if old else f"compiles in {new:.1f} s"


def clock_change(old: float, new: float) -> str:
    return f"{new:.0f} MHz, the base had {old:.0f}"


def kernel_time(kernel: str, old: float, new: float) -> str:
    """Writes "aten::bmm takes 1.31x as long"."""
    return f"{short(kernel)} takes {new / old:.3g}x as long"


def bytes_change(memory: str, times: float, hits: float | None, now: float | None) -> str:
    """Writes "2.1x the bytes of DRAM (L2 hits 41 %, was 88 %)"."""
    told = "" if hits is None or now is None else f" (L2 hits {now:.0f} %, was {hits:.0f} %)"
    return f"{times:.3g}x the bytes of {memory.upper()}{told}"


def occupancy_change(old: float, new: float) -> str:
    return f"{new:.3g} % of the warps that the GPU can hold (was {old:.3g} %)"


def first_cause(cause: str, words: str) -> str:
    """Writes "likely from launches: 3 more kernel launches"."""
    return f"likely from {cause}: {words}"


def launch_change(kernel: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Writes how two launches of a kernel differ, "flex_attention: registers 255 (was 168), stages 1 (was 3)"; "" where
    no fact with a name does."""
    facts = [f"{label} {_plain(after[name])} (was {_plain(before[name])})" for name, label in LAUNCHED.items()
             if name in before and name in after and before[name] != after[name]]
    if not facts and before.get("code") != after.get("code"):
        facts = ["other code"]
    return f"{short(kernel)}: {', '.join(facts)}" if facts else ""


def lost_fusion(came: Mapping[str, int], went: Mapping[str, int]) -> str:
    """Writes "a lost fusion: triton_poi_fused_add_0, triton_poi_fused_mul_1 for triton_poi_fused_add_mul_0", where
    several compiled kernels came that together do what one did, by their names; else ""."""
    parts = {name: _operations(name) for name in came}
    for fused, whole in ((name, _operations(name)) for name in went):
        some = [name for name, part in parts.items() if part and part < whole]
        if len(some) > 1 and set().union(*(parts[name] for name in some)) == whole:
            return f"a lost fusion: {', '.join(sorted(some)[:SHOWN])} for {fused}"
    return ""


def _operations(kernel: str) -> set[str]:
    """Reads the operations in the name of a kernel that torch's inductor fused."""
    _, fused, operations = short(kernel).partition("_fused_")
    return {part for part in operations.split("_") if part and not part.isdecimal()} if fused else set()


def same_launches(code: bool) -> str:
    """Writes "the same kernels": `code` says whether their code was compared, and not their names alone."""
    return f"{'the same kernels' if code else 'kernels of the same names'}, launched alike"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={one}" for name, one in sorted(value.items()))
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def short(kernel: str) -> str:
    """Gives a kernel's name without namespaces, template arguments and parameters."""
    plain = kernel.removeprefix("void ").replace("(anonymous namespace)::", "")
    outer, *inside = re.split(r"[<(]", plain, maxsplit=1)
    if inside and _GENERIC.search(outer) and (inner := _INNER.search(inside[0])):
        return inner[0]
    return outer if outer.startswith("aten::") else outer.rpartition("::")[2] or outer


def _list(names: Mapping[str, int] | None) -> str:
    counts: dict[str, int] = {}
    for name, count in (names or {}).items():
        counts[short(name)] = counts.get(short(name), 0) + count
    texts = [f"{name} x{count}" if count > 1 else name for name, count in sorted(counts.items())[:SHOWN]]
    return ", ".join(texts) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def _amount(value: float) -> str:
    """Writes "12.6 M", with a thousand as the step; "512 " below a thousand."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} "


def _value(log_ratio: float, way: int) -> float:
    """Gives percent slower, or (way -1) percent less time."""
    return 100 * way * math.expm1(min(log_ratio, 50.0))


def _figure(percent: float) -> str:
    text = f"{percent:.1f}" if abs(percent) < 99.95 else f"{percent:.0f}" if abs(percent) < 1e5 else f"{percent:.0e}"
    return text.removeprefix("-") if float(text) == 0 else text
