"""Sparse Sinkhorn attention: published numbers, its sorting, and what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch

import attention
from attention.functions.sinkhorn import order
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["sinkhorn:eager", "sinkhorn:sdpa"])


def build(name: str, seq_len: int, **options: Any) -> attention.Attention:
    return attention.create(name, heads=3, head_dim=4, seq_len=seq_len, dtype=torch.float64, **options)


def test_oracle_gives_the_published_numbers() -> None:
    """The published code sorts keys in place of values, so here the values are the keys."""
    q, k, _ = shared.qkv(40)
    sorting = shared.spread((3, 8, 5), 4.0) / 4
    shared.is_published("sinkhorn", attention.oracle("sinkhorn", q, k, k, block=8, params={"sorting": sorting}))


@BACKENDS
def test_one_block_is_softmax_attention(name: str) -> None:
    """Full and not: the block is sorted onto itself, and every key counts twice."""
    for n in (24, 17):
        q, k, v = shared.qkv(n)
        torch.testing.assert_close(build(name, n, block=24)(q, k, v), attention.oracle("softmax", q, k, v),
                                   rtol=1e-12, atol=1e-12)


def test_two_blocks_that_change_places_are_softmax_attention() -> None:
    """Each block then sees itself and all of the other."""
    q, k, v = (x.abs() for x in shared.qkv(16))
    q, k = (torch.cat([x[:, :, :8], -x[:, :, 8:]], 2) for x in (q, k))
    module = build("sinkhorn:eager", 16, block=8)
    with torch.no_grad():
        w = module.get_parameter("sorting")
        w[:, :, 0], w[:, :, 1] = -9, 9  # place 0 for the negative block, 1 for the other
    torch.testing.assert_close(module(q, k, v), attention.oracle("softmax", q, k, v), rtol=1e-9, atol=1e-9)


def test_the_sorting_becomes_a_doubly_stochastic_matrix() -> None:
    q, k = (x.unflatten(2, (5, 8)) for x in shared.qkv(40)[:2])
    sorting = shared.spread((3, 8, 5), 4.0) / 4

    def off(iterations: int) -> float:
        s = order(q, k, sorting, iterations, 0.75)
        assert (s >= 0).all()
        return max((s.sum(dim) - 1).abs().max().item() for dim in (-1, -2))

    assert off(200) < 1e-4 < off(8) < off(1)


def test_a_cold_sorting_moves_whole_blocks() -> None:
    """At a low temperature every row of S has one large entry."""
    q, k = (x.unflatten(2, (5, 8)) for x in shared.qkv(40)[:2])
    sorting = shared.spread((3, 8, 5), 4.0)
    warm, cold = (order(q, k, sorting, 50, temperature).amax(-1).mean() for temperature in (10.0, 0.1))
    assert cold > 0.9 > warm


@BACKENDS
def test_shorter_sequences_use_the_first_blocks(name: str) -> None:
    q, k, v = shared.qkv(20)
    long, fitting = build(name, 64, block=8), build(name, 20, block=8)
    fitting.load_state_dict({"sorting": long.get_parameter("sorting")[:, :, :3]})
    torch.testing.assert_close(long(q, k, v), fitting(q, k, v), rtol=0, atol=0)


@BACKENDS
@pytest.mark.parametrize("n", [12, 10], ids=["full", "filled up"])
def test_gradients(name: str, n: int) -> None:
    shared.has_right_gradients(name, n, block=4, iterations=3)


def test_cost() -> None:
    """n b + n²/b: under n^1.2 with blocks of 64, n^1.5 with blocks of √n; memory linear."""
    assert shared.flops("sinkhorn:eager", 512) == shared.registered_flops("sinkhorn", 512)
    assert exponent(lambda n: shared.flops("sinkhorn:eager", n)) < 1.2
    rooted = exponent(lambda n: shared.registered_flops("sinkhorn", n, block=int(n ** 0.5)), (1024, 4096, 16384))
    assert 1.4 < rooted < 1.55
    assert exponent(lambda n: shared.peak_bytes("sinkhorn:eager", n)) < 1.1
    assert shared.peak_bytes("sinkhorn:eager", 1024) < 0.7 * shared.peak_bytes("softmax:eager", 1024)
    assert 1 <= shared.predicted_over_counted("sinkhorn:eager", 1024) < 2


@pytest.mark.parametrize("options", [{"block": 0}, {"iterations": 0}, {"temperature": 0}], ids=str)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=r"^sinkhorn: \w+=0 must be .*$"):
        build("sinkhorn:eager", 16, **options)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="n=24, built for at most 16 positions"):
        build("sinkhorn:eager", 16, block=8)(*shared.qkv(24))
    with pytest.raises(ValueError, match="seq_len=None must be"):
        attention.create("sinkhorn:eager", heads=1, head_dim=4)
    with pytest.raises(ValueError, match="no causal form"):
        attention.create("sinkhorn:eager", heads=1, head_dim=4, seq_len=8, causal=True)
