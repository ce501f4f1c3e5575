"""A command line selects one workload and nothing else, and has it profiled."""
from __future__ import annotations

import functools
import shlex
from collections.abc import Sequence
from typing import Any

import torch

import attention
from perf.run.axis_options import AXES, FLAGS
from perf.system import devices
from perf.system.tools import python
from perf.workloads import axes
from perf.workloads.families import family
from perf.workloads.grids import grid
from perf.workloads.workload import Workload

# Where a workload may be: a grid, the axes that must be said beside it, whether real models' shapes are added; the
# shortest to type and quickest to collect first. The length of a shape is no option.
EVERY, ALL_BUT_LENGTH = tuple(AXES), tuple(name for name in AXES if name != "seqlens")
PLACES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("default", (), False), ("default", (), True), ("full", (), False),
    ("default", EVERY, False), ("default", ALL_BUT_LENGTH, True), ("full", EVERY, False))
MODELS_ONLY = ("quantizations", "compiled")  # left unsaid, they leave a bare kernel and a plain model where they are
Given = tuple[tuple[str, Any], ...]


def command(w: Workload, tool: str = "torch", *, device: torch.device | None = None,
            plugins: Sequence[str] = ()) -> str:
    """Gives what a user types in the project's root to profile `w`: its item's id, and options with which that exists.

    `device` is the default one unless given; `plugins` are those that pytest loads by name. Raises ValueError if no
    options select the workload, as one of a package that isn't installed here.
    """
    device = device or devices.device(None)
    test = f"test_{_test(w)}"
    loaded = [word for name in plugins for word in ("-p", name)]
    return shlex.join([python(), "-m", "pytest", *loaded, f"perf/{test}.py::{test}[{w.id}]", "--benchmark-only",
                       f"--perf-device={device}", *_options(w, device.type), f"--perf-profile={tool}"])


def _test(w: Workload) -> str:
    """Names the test that collects `w`. Raises ValueError if none does."""
    from models import presets

    if w.variant not in attention.names() or not (w.bare or w.model in presets()):
        raise ValueError(f"no options select {w.id}: the package that adds it is not installed here")
    return family(w.model).test


def _options(w: Workload, device_type: str) -> list[str]:
    for name, axes_said, with_shapes in PLACES:
        given = {AXES[axis][0]: _value(w, AXES[axis][0]) for axis in axes_said}
        if w in _selected(name, device_type, tuple(given.items()), with_shapes):
            arguments = [f"--perf-{axis.replace('_', '-')}={_word(axis, given[AXES[axis][0]])}" for axis in axes_said
                    if axis not in MODELS_ONLY or w.treatment]
            return [f"--perf-grid={name}", *arguments, *(["--perf-shapes"] if with_shapes else [])]
    raise ValueError(f"no options select {w.id} on {device_type}: no sweep of its model is like it")


@functools.lru_cache(maxsize=256)
def _selected(name: str, device_type: str, given: Given, with_shapes: bool) -> frozenset[Workload]:
    if not given:
        return frozenset(grid(name, device_type, with_shapes=with_shapes))
    try:
        return frozenset(axes.select(name, device_type, {field: [value] for field, value in given},
                                     with_shapes=with_shapes))
    except ValueError:  # no workload has these values
        return frozenset()


def _value(w: Workload, field: str) -> Any:
    return getattr(w, "m" if field == "n" and w.n == 1 else field)  # the length of a decode step is its cache's


def _word(axis: str, value: Any) -> str:
    return next(word for word, meant in FLAGS[axis].items() if meant == (value,)) if axis in FLAGS else str(value)
