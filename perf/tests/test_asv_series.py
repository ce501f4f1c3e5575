"""asv's cells are pytest's workloads, under names that nothing else changes."""
from __future__ import annotations

from dataclasses import replace

import pytest

from perf.history import matrix
from perf.history.series import LATER, common, series
from perf.workloads import grids as workloads
from perf.workloads.workload import FIELDS, Workload

OTHER = Workload("attention", "softmax", "eager", "forward", True, 3, 6, 2, 100, 100, 48, "fp64")


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_cells_and_workloads_are_one_to_one(device_type):
    full = workloads.grid("full", device_type)
    found = series(full)
    cells = {shared: one.cells() for shared, one in found.items()}
    assert all(cells[common(w)][found[common(w)].index(w)] == w for w in full)
    assert sorted(w.id for of_one in cells.values() for w in of_one) == sorted(w.id for w in full)


def test_axes_are_the_fields_of_a_workload():
    for one in series(workloads.grid("full", "cuda")).values():
        assert list(one.axes) == [axis for axis in FIELDS if axis in one.axes]
        assert set(FIELDS) - set(one.axes) <= set(LATER)
        assert all(len(values) == 1 for axis, values in one.axes.items()
                   if axis not in ("backend", "causal", "batch", "n"))


@pytest.mark.parametrize("grid", workloads.GRIDS)
def test_matrix_selects_the_grid(grid):
    built = matrix.build(grid, "cpu")
    cells = {one.benchmark: one.cells() for one in built.series}
    chosen = [cells[name][number] for name, numbers in built.selected.items() for number in numbers]
    assert sorted(w.id for w in chosen) == sorted(w.id for w in workloads.grid(grid, "cpu"))
    assert matrix.Matrix.from_json(built.to_json()) == built


def test_names_do_not_depend_on_what_else_is_measured():
    full = workloads.grid("full", "cpu")
    names = {one.benchmark for one in series(full).values()}
    alone = {one.benchmark for w in full[::7] for one in series([w]).values()}
    assert alone <= names
    assert "attention.SoftmaxForwardH8D64Fp32" in names
    assert "models.Distilgpt2SoftmaxDecodeM256Fp32" in names


def test_a_later_field_is_an_axis_only_where_it_is_not_the_default():
    """asv knows a result by all its axes: one more, and the history of a series is gone."""
    assert LATER == {"quantization": "none", "compiled": False}
    before = tuple(field for field in FIELDS if field not in LATER)
    plain = replace(OTHER, model="vit-b16", phase="forward")
    found = {one.benchmark: one for one in series([
        plain, replace(plain, compiled=True), replace(plain, quantization="bnb-int8"),
        replace(plain, quantization="bnb-int8", compiled=True)]).values()}
    assert {name: tuple(one.axes) for name, one in found.items()} == {
        "models.VitB16SoftmaxForwardFp64": before,
        "models.VitB16SoftmaxForwardFp64Compiled": (*before, "compiled"),
        "models.VitB16SoftmaxForwardFp64BnbInt8": (*before, "quantization"),
        "models.VitB16SoftmaxForwardFp64BnbInt8Compiled": FIELDS}
    for one in found.values():
        (cell,) = one.cells()
        assert one.index(cell) == 0
        assert series([cell])[common(cell)] == one


def test_workload_of_another_package_has_its_series(monkeypatch):
    before = {one.benchmark: one for one in matrix.build("quick", "cpu").series}
    monkeypatch.setattr(workloads, "_registered", [])
    workloads.register(OTHER, grids=["quick"])
    built = matrix.build("quick", "cpu")
    after = {one.benchmark: one for one in built.series}
    assert {name: after[name] for name in before} == before
    added = after["attention.SoftmaxForwardH6G2D48Fp64"]
    assert added.cells() == [OTHER]
    assert built.selected[added.benchmark] == [0]


def test_series_grow_when_another_package_adds_to_their_axes():
    more = replace(OTHER, batch=5, n=200, m=200)
    (one,) = series([OTHER, more]).values()
    assert one.axes["batch"] == [3, 5]
    assert one.axes["n"] == [100, 200]
    assert [one.cells()[one.index(w)] for w in (OTHER, more)] == [OTHER, more]


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match=r"same name in asv, attention\.ABForwardH6G2D48Fp64"):
        series([replace(OTHER, function="a-b"), replace(OTHER, function="a_b")])


@pytest.mark.parametrize(("grid", "device", "message"), [
    ("huge", "cpu", "PERF_GRID: unknown grid 'huge'; choose from quick, default, full"),
    ("quick", "tpu", "PERF_DEVICE: no device 'tpu' here; choose from cpu"),
])
def test_impossible_settings_name_the_choices(grid, device, message):
    with pytest.raises(ValueError, match=message):
        matrix.build(grid, device)
