"""The frozen controls: that they are frozen, what they compute is finite and the same each time, and whose they are."""
from __future__ import annotations

import ast
import hashlib
import inspect
from collections import Counter

import pytest
import torch

from perf.bench import controls
from perf.measure.clocks import clock
from perf.verdict.nights import groups
from perf.workloads.grids import grid

CPU = torch.device("cpu")
FROZEN = {1: "9ebc560acde92c63"}  # version -> hash of all that a time depends on


def source_hash() -> str:
    """Hashes the file's code without docstrings and comments: words may be mended."""
    tree = ast.parse(inspect.getsource(controls))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def test_an_edit_needs_a_new_version():
    assert FROZEN.get(controls.VERSION) == source_hash(), (
        "perf/bench/controls.py was edited: its series would go on with other work under the same names. Raise "
        f"VERSION and add {{{controls.VERSION + 1}: ...}} to FROZEN here, never change an old entry")


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_eight_a_group_and_names_that_say_the_version(device_type):
    result = controls.of(device_type)
    assert Counter(one.group for one in result) == dict.fromkeys(controls.GROUPS, 8)
    assert len({one.name for one in result}) == 24
    assert all(one.name.endswith(f" v{controls.VERSION}") and one.name.startswith(f"{one.group}/") for one in result)


@pytest.mark.parametrize("control", controls.of("cpu"), ids=lambda one: one.name)
def test_a_control_computes_the_same_finite_numbers_each_time_and_leaves_torchs_seed(control):
    torch.manual_seed(3)
    drawn = torch.randn(1)
    torch.manual_seed(3)
    first, again = control.make(CPU), control.make(CPU)
    assert torch.equal(torch.randn(1), drawn)
    once = first().clone()
    assert torch.equal(once, again())
    assert torch.equal(once, first())
    assert torch.isfinite(once).all()
    assert not once.requires_grad


def test_a_control_is_timed_like_any_workload():
    plan = clock(CPU).prepare(controls.of("cpu")[0].make(CPU))
    assert plan.rounds >= 3
    assert 0 < plan.seconds < 1


def test_memory_bound_controls_move_more_than_a_core_caches():
    assert controls.ROWS["cpu"] * controls.COLUMNS["cpu"] * 4 >= 2 ** 22
    assert controls.ROWS["cuda"] * controls.COLUMNS["cuda"] * 2 >= 2 ** 27


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_every_benchmark_has_a_group(device_type):
    counter = Counter(groups(grid("default", device_type), device_type).values())
    assert set(counter) <= set(controls.GROUPS)
    assert counter["compute"] > 0


def test_nothing_of_a_revision_is_read():
    imported = {name.name if isinstance(node, ast.Import) else node.module
                for node in ast.walk(ast.parse(inspect.getsource(controls)))
                if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}
    assert not [name for name in imported if name and name.split(".")[0] in ("attention", "models")]
