"""Tests what an explicit option does to a grid."""
from __future__ import annotations

import pytest

from perf.workloads.axes import select
from perf.workloads.grids import grid


def test_nothing_given_is_the_grid():
    assert select("quick", "cpu", {}) == grid("quick", "cpu")


def test_lengths_replace_the_grid_s():
    chosen = select("quick", "cpu", {"n": [2048, 77]})
    assert {w.n for w in chosen} == {w.m for w in chosen} == {2048, 77}
    assert len({w.variant for w in chosen}) == len({w.variant for w in grid("quick", "cpu")})


def kernels(axes):
    """Returns the bare kernels of the quick grid of a GPU; models fix more."""
    return [w for w in select("quick", "cuda", axes) if w.bare]


def test_gpu_batches_follow_the_length_unless_given():
    assert {(w.n, w.batch) for w in kernels({"n": [2048, 65536]})} == {(2048, 8), (65536, 1)}
    assert {(w.n, w.batch) for w in kernels({"n": [2048], "batch": [3]})} == {(2048, 3)}


def test_heads_follow_the_head_dim_and_key_value_heads_the_heads():
    assert {(w.heads, w.kv_heads) for w in kernels({"head_dim": [256]})} == {(8, 8)}
    assert {(w.heads, w.kv_heads) for w in kernels({"heads": [12]})} == {(12, 12)}
    assert {(w.heads, w.kv_heads) for w in kernels({"kv_heads": [4]})} == {(32, 4)}


def test_a_function_of_the_grid_keeps_its_cells():
    chosen = select("default", "cpu", {"function": ["alibi"]})
    of_grid = [w for w in grid("default", "cpu") if w.function == "alibi"]
    assert [w for w in chosen if w.bare] == of_grid
    assert {w.function for w in chosen} == {"alibi"}
    assert "distilgpt2" in {w.model for w in chosen}  # which the grid measures with softmax only


def test_models_keep_what_makes_them():
    chosen = select("default", "cpu", {"n": [128], "heads": [12]})
    assert {w.model for w in chosen if not w.bare} == {"distilgpt2"}
    assert {(w.n, w.m) for w in chosen if w.phase == "decode"} == {(1, 128)}
    assert all(w.heads == 12 for w in chosen)


def test_shapes_are_filtered_not_multiplied():
    chosen = select("quick", "cpu", {"n": [512, 197]}, with_shapes=True)
    assert {(w.n, w.heads) for w in chosen if w.bare} == {(512, 8), (197, 8), (197, 16)}


def test_phases_of_models_and_kernels():
    assert {(w.model, w.phase) for w in select("default", "cpu", {"phase": ["train-step"]})} == {
        ("distilgpt2", "train-step"), ("vit-s16", "train-step"), ("tft-160", "train-step")}


def test_quantised_and_compiled_are_models():
    chosen = select("default", "cpu", {"quantization": ["none", "bnb-int8"], "compiled": [True]})
    assert {(w.quantization, w.compiled) for w in chosen} == {("none", True), ("bnb-int8", True)}
    assert {w.model for w in chosen} == {"distilgpt2", "vit-s16", "tft-160"}
    plain = select("default", "cpu", {"quantization": ["none"], "compiled": [False]})
    assert plain == [w for w in grid("default", "cpu") if not w.treatment]


def test_quantised_models_are_not_trained():
    phases = {"quantization": ["none", "bnb-int8"], "phase": ["train-step", "forward"]}
    assert {(w.quantization, w.phase) for w in select("default", "cpu", phases) if not w.bare} == {
        ("none", "train-step"), ("none", "forward"), ("bnb-int8", "forward")}


@pytest.mark.parametrize(("axes", "message"), [
    ({"quantization": ["bnb-int8"], "phase": ["backward"]}, "no workload is left with quantization bnb-int8"),
    ({"kv_heads": [5]}, "no workload is left with kv_heads 5: it must divide the query heads, 4, 6, 8"),
    ({"function": ["alibi"], "backend": ["sdpa-math"]}, "alibi is registered on eager, "),
    ({"phase": ["prefill"], "causal": [False]}, "no workload is left with phase prefill"),
])
def test_a_value_that_leaves_nothing_is_told(axes, message):
    with pytest.raises(ValueError, match=message):
        select("quick", "cpu", axes)
