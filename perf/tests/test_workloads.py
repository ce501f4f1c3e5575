"""The matrix: unique ids, exact products, parts of one whole, and the arithmetic of FLOPs and bytes."""
from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

import models
from perf.workloads import grids as workloads
from perf.workloads.families import FAMILIES
from perf.workloads.workload import FIELDS, Workload, parse_length

DEVICES = ("cpu", "cuda")
KERNEL = Workload("attention", "softmax", "sdpa", "forward", False, 2, 8, 8, 128, 128, 64, "bf16")


@pytest.mark.parametrize("device", DEVICES)
def test_ids_are_unique(device):
    cells = workloads.grid("full", device, with_shapes=True)
    assert len({w.id for w in cells}) == len(cells) == len(set(cells)) > 1000


def test_id_holds_every_field_in_order():
    w = replace(KERNEL, backend="sdpa-flash", causal=True, batch=1, n=1024, m=1024, dtype="fp32")
    assert w.id == "softmax:sdpa-flash-forward-causal-b1-h8-kv8-n1024-m1024-d64-fp32"
    assert replace(w, model="gpt2", causal=False).id.startswith("gpt2-softmax:sdpa-flash-forward-full-b1-")


@pytest.mark.parametrize(("quantization", "compiled", "added"), [
    ("none", False, ""), ("none", True, "-compiled"), ("bnb-int8", False, "-bnb-int8"),
    ("bnb-int8", True, "-bnb-int8-compiled")])
def test_a_treatment_stands_behind_the_id_of_the_plain_model(quantization, compiled, added):
    w = replace(KERNEL, model="vit-b16", quantization=quantization, compiled=compiled)
    assert w.id == "vit-b16-softmax:sdpa-forward-full-b2-h8-kv8-n128-m128-d64-bf16" + added
    assert w.plain == replace(KERNEL, model="vit-b16")
    assert w.shape == w.plain.shape  # the same inputs
    assert (w.group == w.plain.group) == (not added)  # another model: not a backend to compare with


@pytest.mark.parametrize("device", DEVICES)
def test_sweeps_are_products_and_do_not_overlap(device):
    seen: set[Workload] = set()
    for sweep in workloads.sweeps(device):
        cells = list(sweep)
        product = itertools.product(sweep.backends, sweep.causal, sweep.batches, sweep.lengths)
        assert {(w.backend, w.causal, w.batch, w.n) for w in cells} == set(product)
        assert not seen.intersection(cells)
        seen.update(cells)
    assert seen == set(workloads.grid("full", device))


@pytest.mark.parametrize("device", DEVICES)
def test_quick_and_default_are_parts_of_full(device):
    full = set(workloads.grid("full", device))
    default, quick = set(workloads.grid("default", device)), set(workloads.grid("quick", device))
    assert quick < default < full


def test_every_preset_has_a_row():
    rows = {sweep.model for device in DEVICES for sweep in workloads.sweeps(device)}
    assert {name for name, preset in models.presets().items() if preset.family in FAMILIES} <= rows


@pytest.mark.slow
def test_a_models_rows_have_the_length_that_its_attention_sees():
    for sweep in (sweep for device in DEVICES for sweep in workloads.sweeps(device) if sweep.model in models.presets()):
        preset = models.get(sweep.model)
        if preset.family == "tft":
            assert (*sweep.lengths, sweep.keys) == (preset.sizes["horizon"],
                                                    preset.sizes["context"] + preset.sizes["horizon"])
        elif not FAMILIES[preset.family].takes_length:  # importing these takes seconds
            assert (sweep.lengths, sweep.keys) == ((models.family(preset).tokens(preset),), None), sweep.model


@pytest.mark.parametrize(("device", "grid"), list(itertools.product(DEVICES, workloads.GRIDS)))
def test_cells_of_one_shape_stand_together(device, grid):
    cells = workloads.grid(grid, device, with_shapes=True)
    shapes = [shape for shape, _ in itertools.groupby(w.shape for w in cells)]
    groups = [group for group, _ in itertools.groupby(w.group for w in cells)]
    assert len(shapes) == len(set(shapes))
    assert len(groups) == len(set(groups))


def test_gpu_default_keeps_the_tokens_and_the_width():
    bare = [w for w in workloads.grid("default", "cuda") if w.bare]
    assert {w.batch * w.m for w in bare} == {16384}
    assert {w.heads * w.head_dim for w in bare} == {2048}
    assert {w.m for w in bare} == {512, 1024, 2048, 4096, 8192, 16384}
    assert {(w.head_dim, w.phase, w.causal) for w in bare if w.function == "softmax"} == set(itertools.product(
        (64, 128), ("forward", "backward", "forward-backward"), (True, False)))
    assert {w.causal for w in bare if w.function in ("alibi", "sliding-window")} == {True}


def test_cpu_quick_compiles_little():
    assert sum(w.backend == "flex" for w in workloads.grid("quick", "cpu")) <= 2


def test_shapes_are_a_list_not_a_product():
    cells = [w for sweep in workloads.shapes("cuda") for w in sweep]
    assert len({w.group for w in cells}) == len(workloads.SHAPES) == 5
    assert (32, 8, 1, 4096) in {(w.heads, w.kv_heads, w.n, w.m) for w in cells}


def test_another_package_adds_to_its_grids(monkeypatch):
    monkeypatch.setattr(workloads, "_registered", [])
    mine = replace(KERNEL, n=77, m=77, dtype="fp32")
    workloads.register(mine, grids=["quick"])
    assert mine in workloads.grid("quick", "cpu")
    assert mine in workloads.grid("full", "cpu")
    assert mine not in workloads.grid("default", "cpu")


@pytest.mark.parametrize(("change", "expected"), [
    ({}, 4 * 2 * 8 * 64 * 128 * 128),
    ({"causal": True}, 4 * 2 * 8 * 64 * (128 * 129 // 2)),
    ({"kv_heads": 2}, 4 * 2 * 8 * 64 * 128 * 128),  # query heads do the work
    ({"phase": "backward"}, 10 * 2 * 8 * 64 * 128 * 128),
    ({"phase": "forward-backward"}, 14 * 2 * 8 * 64 * 128 * 128),
    ({"causal": True, "n": 1}, 4 * 2 * 8 * 64 * 128),  # a decode step sees all keys
    ({"function": "sliding-window", "causal": True, "n": 512, "m": 512},
     4 * 2 * 8 * 64 * (256 * 257 // 2 + 256 * 256)),
])
def test_flops_count_visible_pairs(change, expected):
    assert replace(KERNEL, **change).flops == expected


def test_flops_of_vit_large_are_the_published_ones():
    w = Workload("vit-l16", "softmax", "sdpa", "forward", False, 1, 16, 16, 197, 197, 64, "fp32")
    assert w.flops == pytest.approx(2 * 61.6e9, rel=0.01)  # 61.6 G multiply-adds: DeiT III, arXiv 2204.07118
    assert w.bytes is None


def test_bytes_are_inputs_once_and_outputs_once():
    w = replace(KERNEL, kv_heads=2)
    q, k = 2 * 8 * 128 * 64, 2 * 2 * 128 * 64
    assert w.bytes == 2 * (q + k + k + q)
    assert replace(w, phase="backward").bytes == 2 * (q + 2 * k + 2 * q + q + 2 * k) == 2 * (4 * q + 4 * k)


@pytest.mark.parametrize(("text", "length"), [("8k", 8192), ("197", 197), ("1K", 1024), (" 512 ", 512)])
def test_lengths(text, length):
    assert parse_length(text) == length


@pytest.mark.parametrize("text", ["0", "abc", "", "-1", "1.5k", "k", "0k", "8kk", "٣"])
def test_impossible_lengths(text):
    with pytest.raises(ValueError, match="is not a length; give a whole number"):
        parse_length(text)


def test_fields_are_the_documented_ones():
    assert FIELDS == ("model", "function", "backend", "phase", "causal", "batch", "heads", "kv_heads", "n", "m",
                      "head_dim", "dtype", "quantization", "compiled")
