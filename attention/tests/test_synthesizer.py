"""Synthesizer: a stock library's numbers, what its scores depend on, and what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention.tests import long_range as shared
from attention.tests.costs import exponent

FORMS = pytest.mark.parametrize("form", ["dense", "random", "factorised"])


def build(form: str, seq_len: int = 24, causal: bool = False, **options: Any) -> attention.Attention:
    return attention.create("synthesizer:eager", heads=3, head_dim=4, seq_len=seq_len, causal=causal,
                            dtype=torch.float64, form=form, **options)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_dense_scores_are_products_with_learned_keys(causal: bool) -> None:
    """relu(q) W as in the authors' code (tensorflow/mesh, transformer/attention.py, "dense_minus")."""
    q, k, v = shared.qkv(24)
    w = shared.spread((3, 30, 4), 5.0)
    expected = scaled_dot_product_attention(q.relu(), w[:, :24].expand(2, -1, -1, -1), v, scale=1.0, is_causal=causal)
    out = attention.oracle("synthesizer", q, k, v, causal=causal, params={"keys": w})
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_random_scores_are_a_mask_that_is_added(causal: bool) -> None:
    q, k, v = shared.qkv(24)
    r = shared.spread((3, 30, 30), 5.0)
    mask = r[:, :24, :24].masked_fill(torch.ones(24, 24, dtype=torch.bool).triu(1) & causal, -torch.inf)
    expected = scaled_dot_product_attention(0 * q, k, v, attn_mask=mask.expand(2, -1, -1, -1))
    out = attention.oracle("synthesizer", q, k, v, causal=causal, form="random", params={"scores": r})
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_factorised_scores_of_full_rank_are_random_scores() -> None:
    q, k, v = shared.qkv(24)
    r = shared.spread((3, 24, 24), 5.0)
    one = attention.oracle("synthesizer", q, k, v, form="random", params={"scores": r})
    eye = torch.eye(24, dtype=torch.float64).expand(3, -1, -1)
    other = attention.oracle("synthesizer", q, k, v, form="factorised", rank=24, params={"queries": r, "keys": eye})
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@FORMS
def test_keys_never_show_and_queries_only_in_the_dense_form(form: str) -> None:
    q, k, v = shared.qkv(24)
    module = build(form)
    out = module(q, k, v)
    assert torch.equal(out, module(q, -k, v))
    assert torch.equal(out, module(-q, k, v)) == (form != "dense")


@FORMS
def test_queries_stand_at_the_end_of_the_keys(form: str) -> None:
    q, k, v = shared.qkv(24)
    whole = build(form, causal=True)(q, k, v)
    tail = build(form, causal=True)(q[:, :, 20:], k, v)
    torch.testing.assert_close(tail, whole[:, :, 20:], rtol=1e-13, atol=1e-13)


@FORMS
def test_gradients(form: str) -> None:
    shared.has_right_gradients("synthesizer:eager", 6, used="qv" if form == "dense" else "v", causal=True, form=form,
                               rank=2)


@FORMS
def test_parameters_start_xavier_uniform_and_the_same(form: str) -> None:
    one, other = (dict(build(form, 64, rank=16).named_parameters()) for _ in range(2))
    width = {"dense": 4, "random": 64, "factorised": 16}[form]
    bound = (6 / (64 + width)) ** 0.5
    for name, x in one.items():
        assert x.shape == (3, 64, width)
        assert torch.equal(x, other[name])
        assert 0.9 * bound < x.abs().max() <= bound
        assert abs(x.mean()) < bound / 10


@FORMS
def test_flops_are_as_registered_and_quadratic(form: str) -> None:
    for n in (512, 1024):
        assert shared.flops("synthesizer:eager", n, form=form) == shared.registered_flops("synthesizer", n, form=form)
    assert exponent(lambda n: shared.registered_flops("synthesizer", n, form=form)) == pytest.approx(2)


def test_without_a_product_it_takes_half_of_softmax_s_flops() -> None:
    assert shared.flops("synthesizer:eager", 512, form="random") * 2 == shared.flops("softmax:eager", 512)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="form='sparse' must be one of dense, random, factorised"):
        build("sparse")
    with pytest.raises(ValueError, match="rank=0 must be a whole number >= 1"):
        build("factorised", rank=0)
    with pytest.raises(ValueError, match="seq_len=None must be the number of positions"):
        attention.create("synthesizer:eager", heads=1, head_dim=4)


def test_bad_lengths() -> None:
    with pytest.raises(ValueError, match="m=30 keys, built for seq_len=24"):
        build("random")(*shared.qkv(30))
    with pytest.raises(ValueError, match="no more queries than keys: n=24, m=10"):
        build("random")(*shared.qkv(24, 10))
