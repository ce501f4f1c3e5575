"""An explicit option replaces an axis of a grid by its values, wherever the workload leaves that axis free.

A bare kernel leaves every axis free but quantization and compiled, which are of models. A model fixes its
heads, head_dim and mask (and a ViT or TFT its lengths); a shape of `--perf-shapes` is a point. What is fixed
is filtered instead of replaced.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from perf.workloads.families import family
from perf.workloads.grids import HIDDEN, TOKENS, TRAINING, backends, grid, order, shapes
from perf.workloads.workload import BARE_PHASES, UNQUANTISED, Workload

BARE_AXES = ("quantization", "compiled")
SHAPE_AXES = ("batch", "heads", "kv_heads", "n", "m", "head_dim", "causal", *BARE_AXES)
MODEL_AXES = ("heads", "kv_heads", "head_dim", "causal")

Axes = Mapping[str, Sequence[Any]]


def select(name: str, device_type: str, axes: Axes, *, with_shapes: bool = False) -> list[Workload]:
    """Selects the workloads of grid `name` under explicit `axes` (field name -> values), in grid order.

    Raises ValueError, in one line, if nothing is left, or nothing with one of the given values.
    """
    points = [w for sweep in shapes(device_type) for w in sweep] if with_shapes else []
    cells = grid(name, device_type, with_zoo="function" in axes)
    chosen = order([*_with_axes(cells, axes, device_type), *_with_axes(points, axes, device_type, fixed=SHAPE_AXES)])
    for axis, values in axes.items():
        for value in values:
            if not any(_has(w, axis, value) for w in chosen):
                raise ValueError(f"no workload is left with {axis} {_word(axis, value)}: "
                                 + _why_empty(axis, axes, [*cells, *points]))
    if not chosen:
        raise ValueError("no workload is left")
    return chosen


def _with_axes(cells: Sequence[Workload], axes: Axes, device_type: str,
               fixed: tuple[str, ...] = ()) -> Iterator[Workload]:
    for cell in _with_functions(cells, axes.get("function")):
        locked = fixed or _fixed_axes(cell)
        free = {axis: values for axis, values in axes.items() if axis not in locked and axis != "function"}
        if "n" in free and _decodes(cell):  # the length of a decode step is its cache's
            free["m"] = free.pop("n")
        for values in product(*free.values()):
            new = _consistent(cell, dict(zip(free, values, strict=True)), device_type)
            if new and all(getattr(new, axis) in axes[axis] for axis in axes if axis in locked):
                yield new


def _with_functions(cells: Sequence[Workload], functions: Sequence[str] | None) -> Iterator[Workload]:
    """Yields the cells of `functions`; for one that the model is not measured with, softmax's cells."""
    if functions is None:
        yield from cells
        return
    present = {(w.model, w.function) for w in cells}
    for function, cell in product(functions, cells):
        if cell.function == function:
            yield cell
        elif cell.function == "softmax" and not cell.treatment and (cell.model, function) not in present:
            for backend in backends(function):
                yield replace(cell, function=function, backend=backend)


def _fixed_axes(cell: Workload) -> tuple[str, ...]:
    if cell.bare:
        return BARE_AXES
    if _decodes(cell):
        return (*MODEL_AXES, "phase")  # its shape is no other phase's
    return MODEL_AXES if family(cell.model).any_length else (*MODEL_AXES, "n", "m")


def _has(w: Workload, axis: str, value: Any) -> bool:
    return getattr(w, axis) == value or (axis == "n" and _decodes(w) and w.m == value)


def _decodes(cell: Workload) -> bool:
    return cell.n == 1 and cell.m > 1


def _consistent(cell: Workload, new: dict[str, Any], device_type: str) -> Workload | None:
    """Gives `cell` with `new` values and what follows from them; None if they contradict one another."""
    if "n" in new and cell.n == cell.m:
        new.setdefault("m", new["n"])
        if TOKENS[device_type] and cell.bare:
            new.setdefault("batch", max(1, TOKENS[device_type] // new["n"]))
    if "head_dim" in new and new["head_dim"] != cell.head_dim:
        new.setdefault("heads", max(1, HIDDEN[device_type] // new["head_dim"]))
    if "heads" in new:
        new.setdefault("kv_heads", new["heads"])
    result = replace(cell, **new)
    possible = (result.heads % result.kv_heads == 0 and result.phase in _phases(result)
                and result.backend in backends(result.function)
                and (result.quantization == UNQUANTISED or result.phase != TRAINING))  # integers have no gradient
    return result if possible else None


def _phases(cell: Workload) -> Iterable[str]:
    if cell.bare:
        return BARE_PHASES
    from models import presets

    return presets()[cell.model].phases


def _word(axis: str, value: Any) -> str:
    words = {"causal": ("full", "causal"), "compiled": ("no", "yes")}
    return words[axis][value] if axis in words else str(value)


def _why_empty(axis: str, axes: Axes, cells: Sequence[Workload]) -> str:
    if axis in ("function", "backend"):
        return "; ".join(f"{function} is registered on {', '.join(backends(function))}"
                         for function in axes.get("function") or dict.fromkeys(w.function for w in cells))
    if axis == "kv_heads":
        heads = axes.get("heads") or sorted({w.heads for w in cells})
        return f"it must divide the query heads, {', '.join(map(str, heads))}"
    return "the other options exclude it; drop some of them"
