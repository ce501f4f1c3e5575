"""Combiner: the authors' numbers, its factorisation, and what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch

import attention
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["combiner:eager", "combiner:chunked"])
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
POOLING = pytest.mark.parametrize("pooling", ["max", "mean"])


def build(name: str, causal: bool = False, **options: Any) -> attention.Attention:
    return attention.create(name, heads=3, head_dim=4, causal=causal, dtype=torch.float64, **options)


@POOLING
def test_oracle_gives_the_authors_numbers(pooling: str) -> None:
    out = attention.oracle("combiner", *shared.qkv(40), causal=True, block=8, pooling=pooling)
    shared.is_published(f"combiner {pooling}", out)


@BACKENDS
@CAUSAL
@POOLING
@pytest.mark.parametrize("block", [1, 24, 100])
def test_blocks_of_one_and_one_block_are_softmax_attention(name: str, causal: bool, pooling: str, block: int) -> None:
    """A block of one key is that key; a block of all keys is seen one by one."""
    q, k, v = shared.qkv(24)
    out = build(name, causal, block=block, pooling=pooling)(q, k, v)
    torch.testing.assert_close(out, attention.oracle("softmax", q, k, v, causal=causal), rtol=1e-12, atol=1e-12)


@BACKENDS
@POOLING
def test_every_visible_key_has_weight_and_no_other(name: str, pooling: str) -> None:
    """Full attention: with one-hot values the factorised weights show, positive where seen, and sum to one."""
    q, k, _ = shared.qkv(20, heads=1, head_dim=20)
    eye = torch.eye(20, dtype=torch.float64).expand(2, 1, -1, -1)
    module = attention.create(name, heads=1, head_dim=20, causal=True, dtype=torch.float64, block=4, pooling=pooling)
    weights = module(q, k, eye)
    visible = torch.ones(20, 20, dtype=torch.bool).tril()
    assert (weights[..., visible] > 0).all()
    assert (weights[..., ~visible] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 20, dtype=torch.float64))


@BACKENDS
def test_blocks_are_seen_in_any_order(name: str) -> None:
    """Not causal, changing places of whole blocks changes places of outputs."""
    q, k, v = shared.qkv(32)
    order = torch.tensor([2, 0, 3, 1])[:, None] * 8 + torch.arange(8)
    module = build(name, block=8)
    torch.testing.assert_close(module(*(x[:, :, order.flatten()] for x in (q, k, v))),
                               module(q, k, v)[:, :, order.flatten()], rtol=1e-12, atol=1e-12)


@BACKENDS
@CAUSAL
@POOLING
def test_gradients(name: str, causal: bool, pooling: str) -> None:
    shared.has_right_gradients(name, 7, causal=causal, block=3, pooling=pooling)


def test_flops_and_memory_grow_as_n_root_n() -> None:
    assert shared.flops("combiner:chunked", 512) == shared.registered_flops("combiner", 512)
    assert exponent(lambda n: shared.flops("combiner:chunked", n)) < 1.52
    assert exponent(lambda n: shared.peak_bytes("combiner:chunked", n)) < 1.52


def test_memory_is_a_third_below_softmax_s_and_as_predicted() -> None:
    assert shared.peak_bytes("combiner:chunked", 1024) < 0.7 * shared.peak_bytes("softmax:eager", 1024)
    for name in ("combiner:eager", "combiner:chunked"):
        assert 1 <= shared.predicted_over_counted(name, 1024) < 2


@pytest.mark.parametrize("options", [{"block": 0}, {"block": 2.5}, {"pooling": "sum"}], ids=str)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=r"^combiner: \w+=.* must be .*$"):
        build("combiner:eager", **options)
