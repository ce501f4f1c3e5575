"""Figures that carry no noise are compared exactly; some of them gate by themselves.

| counter | gates |
|---|---|
| launches, memcpys, memsets | their sum: a fusion may turn a copy into a launch, and only more work is worse |
| operators | only where there are no launches (a CPU), and only those that do work: a view takes no time |
| host_syncs, graph_breaks, recompiles | any rise |
| compiled_regions | a rise of what was compiled before: a graph break makes two regions of one |
| peak_bytes, kept_bytes, flops, bytes | from `Thresholds.memory` on: an allocator's rounding is real and no matter |
| error | from `Thresholds.error_factor` on: atomics add in any order |
| compile_seconds | from `Thresholds.compile_factor` times and `compile_seconds` more on: cold, measured once |
| launches' grids, registers, shared memory, code | never: told, for they say why a time moved |
| autograd_nodes, operators of a GPU | never: told. What they make the device do is counted as launches, or timed |

A rise is worse. More work for the device (the first two rows) is forgiven where the time is certain to have
improved by more than noise: a split kernel that pays for itself. The others are not: a replayed CUDA graph's time
does not show a host that waits or compiles, and no time shows memory.
"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perf.policy.thresholds import Thresholds
from perf.system.tools import group_by
from perf.verdict import words

DEVICE = ("launches", "memcpys", "memsets")
ANY = ("host_syncs", "graph_breaks", "recompiles")
REGIONS = "compiled_regions"
SIZES = ("peak_bytes", "kept_bytes", "flops", "bytes")
NO_GATE = ("autograd_nodes",)

# PyTorch's operators that only look at memory another way, only allocate it, or only call others that are counted.
_IDLE = """
    view _unsafe_view reshape _reshape_alias view_as reshape_as as_strided expand expand_as transpose t permute
    unsqueeze squeeze select slice narrow split split_with_sizes chunk unbind unflatten flatten detach detach_ alias
    diagonal unfold movedim swapaxes numpy_T resolve_conj resolve_neg lift_fresh result_type is_nonzero item
    empty empty_like empty_strided new_empty new_empty_strided resize_ set_ zeros zeros_like ones ones_like full
    full_like new_zeros new_ones new_full
    clone contiguous to _to_copy type_as linear matmul einsum softmax log_softmax layer_norm dropout
    scaled_dot_product_attention feature_dropout pad
"""
IDLE = frozenset(f"aten::{name}" for name in _IDLE.split())
_NUMBER = re.compile(r"(?<=_fused)(.*?)_\d+$")
READS = {"aten::_local_scalar_dense"}  # the host reads a value
NAMED = ("aten::clone", "aten::contiguous")  # idle, but they say where a copy comes from


@dataclass(frozen=True)
class Side:
    """Holds what one side of a comparison counted, or why it has no time.

    `missing`: it can't do this; `invalid`: its machine was unfit; `wrong`: its result is. `kernels` are the names of
    device kernels (operators on a CPU) with how often they ran.
    """

    counters: Mapping[str, int]
    error: float | None
    peak_bytes: int | None
    missing: str | None = None
    invalid: str | None = None
    wrong: str | None = None
    kernels: Mapping[str, int] = field(default_factory=dict)
    compile_seconds: float | None = None  # of a compiled model, cold
    launches: Sequence[Mapping[str, Any]] = ()  # of a GPU's kernels, in order (perf/measure/compiled_code.py)
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)  # of one call, by kernel, when profiled
    mhz: float | None = field(default=None, compare=False)  # of the GPU, while it was timed
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)  # of one call (perf/compare/metrics.py)
    unread: str = field(default="", compare=False)  # why there are none, where they were asked for
    written: Sequence[str] | None = None  # hashes of what the compiler wrote, where no changed function ran beside it

    @property
    def figures(self) -> dict[str, int]:
        peak = {} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes}
        return {**self.counters, **peak}


def same(base: Side, head: Side) -> bool:
    """Tells whether both sides run the same code: no changed function ran, the compiler wrote the same text, and all
    that was counted is equal. A kernel of Triton's counts by its code alone, for a tuner may choose among several; and
    of a GPU every launch has to be known."""
    known = len(head.launches) == head.counters.get("launches", len(head.launches)) and all(
        "code" in launch for launch in head.launches if launch["kernel"].startswith("triton_"))
    return (known and base.written is not None and not any((base.missing, base.wrong, base.invalid))
            and replace(base, compile_seconds=None) == replace(head, compile_seconds=None))


@dataclass(frozen=True)
class Change:
    """Describes one change in `words`. Its `sign` is 1 for worse, -1 for better, 0 where it does not gate; a change of
    `work` is forgiven where the time improved. The `figure` grew by such a part of the base's: 0.5 is half as much
    again (perf/verdict/causes.py)."""

    words: str
    sign: int
    work: bool = False
    figure: str = ""
    grew: float = 0.0


def changes(base: Side, head: Side, t: Thresholds) -> list[Change]:
    """Compares two sides that both ran, by what both counted. What is worse comes first."""
    old, new = base.figures, head.figures
    both = {name: (old[name], new[name]) for name in old if name in new}
    differences = [*_work(base, head, both), *_counts(both), *_sizes(both, t.memory),
                   *_error(base, head, t.error_factor), *_compiling(base, head, t), *_launches(base, head)]
    return sorted(differences, key=lambda change: (1, -1, 0).index(change.sign))


def _work(base: Side, head: Side, both: Mapping[str, tuple[int, int]]) -> Iterator[Change]:
    """Compares what the device ran; on a CPU, which operators did the work."""
    came, went = Counter(head.kernels), Counter(base.kernels)
    came, went = came - went, went - came
    if "launches" in both:
        sign = _sign(sum(new - old for name, (old, new) in both.items() if name in DEVICE))
        for name in DEVICE:
            old, new = both.get(name, (0, 0))
            if old != new:
                named = (came if new > old else went) if name == "launches" else {}
                yield Change(words.count_change(name, new - old, named), sign, True, name, _grew(old, new))
        if both["launches"][0] == both["launches"][1] and came:
            part = came.total() / max(1, both["launches"][0])
            yield Change(words.count_change("kernels", 0, came, went), 0, False, "kernels", part)
        if "operators" in both and (more := both["operators"][1] - both["operators"][0]):
            yield Change(words.count_change("operators", more), 0)
    elif "operators" in both:
        old, new = both["operators"]
        known = sum(base.kernels.values()) == old and sum(head.kernels.values()) == new
        busy = _busy(came) - _busy(went) if known else new - old
        if busy:
            reads = {name for name in came if name not in IDLE} == READS
            yield Change(words.count_change("operators", busy, _visible(came if busy > 0 else went)), _sign(busy), True,
                         "host_syncs" if reads else "operators", busy / max(1, _busy(base.kernels)))
        elif came or went:
            yield Change(words.count_change("kernels", 0, came, went), 0)
        elif new != old:
            yield Change(words.count_change("operators", new - old), 0)


def _busy(names: Mapping[str, int]) -> int:
    return sum(count for name, count in names.items() if name not in IDLE)


def _visible(names: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in names.items() if name not in IDLE or name in NAMED}


def _counts(both: Mapping[str, tuple[int, int]]) -> Iterator[Change]:
    for name in (*ANY, REGIONS, *NO_GATE):
        old, new = both.get(name, (0, 0))
        if old != new:
            sign = _sign(new - old) if name in ANY or (name == REGIONS and new > old > 0) else 0
            yield Change(words.count_change(name, new - old), sign, False, name, _grew(old, new))


def _sizes(both: Mapping[str, tuple[int, int]], memory: float) -> Iterator[Change]:
    for name in SIZES:
        old, new = both.get(name, (0, 0))
        if old != new:
            sign = _sign(new - old) if abs(new - old) >= memory * min(old, new) else 0
            yield Change(words.size_change(name, old, new), sign, False, name, _grew(old, new))


def _error(base: Side, head: Side, factor: float) -> Iterator[Change]:
    """Compares errors. A smaller one gates nothing: it is no speed."""
    if base.error is None or head.error is None or base.error == head.error:
        return
    times = head.error / base.error if base.error else math.inf
    if not times < factor:  # a NaN is none
        yield Change(words.error_change(base.error, head.error), 1)
    elif times <= 1 / factor:
        yield Change(words.error_change(base.error, head.error), 0)


def _compiling(base: Side, head: Side, t: Thresholds) -> Iterator[Change]:
    """Compares compile seconds apart from run time, which forgives none of them: who starts a process pays them
    first."""
    old, new = base.compile_seconds, head.compile_seconds
    if old is None or new is None:
        return
    if new >= t.compile_factor * old and new - old >= t.compile_seconds:
        yield Change(words.compile_change(old, new), 1, False, "compile_seconds")
    elif old >= t.compile_factor * new and old - new >= t.compile_seconds:
        yield Change(words.compile_change(old, new), -1)


def _launches(base: Side, head: Side) -> Iterator[Change]:
    """Describes how the kernels differ that ran on both sides, or that they don't; nothing gates by it."""
    if not (base.launches and head.launches):
        return
    if list(map(dict, base.launches)) == list(map(dict, head.launches)):
        yield Change(words.same_launches(all("code" in launch for launch in base.launches)), 0)
        return
    old, new = (group_by(side.launches, lambda launch: unnumbered(launch["kernel"])) for side in (base, head))
    came, went = (Counter({name: len(mine[name]) for name in mine if name not in other})
                  for mine, other in ((new, old), (old, new)))
    sentence = words.lost_fusion(came, went)
    if sentence or ("launches" not in head.counters and (came or went)):  # else the counters name them
        yield Change(sentence or words.count_change("kernels", 0, came, went), 0, False, "kernels",
                     max(0.0, _grew(len(base.launches), len(head.launches))))
    for kernel in [name for name in new if name in old]:
        pair = next(((was, now) for was, now in zip(old[kernel], new[kernel], strict=False)
                     if was != {**now, "kernel": was["kernel"]}), None)
        if pair and (sentence := words.launch_change(pair[1]["kernel"], *pair)):
            was, now = (one.get("occupancy") or 0 for one in pair)
            yield (Change(sentence, 0, False, "occupancy", was / now - 1) if 0 < now < was
                   else Change(sentence, 0, False, "code", 1.0))


def unnumbered(kernel: str) -> str:
    """Gives the name that a kernel of inductor's keeps where another is added before it."""
    return _NUMBER.sub(r"\1", kernel)


def _grew(old: int, new: int) -> float:
    return (new - old) / max(1, old)


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)
