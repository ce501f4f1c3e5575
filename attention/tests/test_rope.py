"""Rotary embedding: transformers' Llama, scores that know distances only, late positions, and together with ALiBi.

`PUBLISHED` is what transformers 5.23.0 gives (models/llama/modeling_llama.py: LlamaRotaryEmbedding, whose angles are
float32, apply_rotary_pos_emb, then causal softmax attention) on the waves below: the rotated q and the output.
"""
from __future__ import annotations

import re

import pytest
import torch

import attention
from attention.functions.rope import oracle_rotate, rotate
from attention.testing import check, inputs
from attention.tests.test_oracles import wave

PUBLISHED = {
    10000.0: ([1.3827944985477587, -1.62510293958807, 0.3170425535180101, 1.5312718795980822,
               2.3760579729637947, 0.8591518770303763, 0.3614520307836978, -0.9974708228122091],
              [1.1956826030976686, 1.4741392177489179, 1.0592851242321806, 0.14623268500242304,
               -0.8355952709327216, -1.4244297144119353, -1.3433326058749606, -0.6304451826440123]),
    500.0: ([1.3827944985477587, -1.8335957805239875, 0.249841009956986, 1.5720705614998907,
             2.3760579729637947, -0.130491571602519, 0.4107834092438306, -0.9318454142137824],
            [1.1757116190665897, 1.415105517219562, 0.9889531789905194, 0.09768070786256833,
             -0.8395325264763258, -1.3819004955558172, -1.2743390687845282, -0.5674360658666512]),
}


@pytest.mark.parametrize("base", PUBLISHED)
def test_it_rotates_as_transformers_does(base: float) -> None:
    q, k, v = (wave((1, 2, 6, 8), p) for p in (0.0, 1.0, 2.0))
    expected, attended = (torch.tensor(x, dtype=torch.float64) for x in PUBLISHED[base])
    for actual in (rotate(q, 0, base), oracle_rotate(q, torch.arange(6), base)):
        torch.testing.assert_close(actual[0, 1, 5], expected, rtol=1e-6, atol=1e-6)
    out = attention.oracle("rope", q, k, v, causal=True, base=base)
    torch.testing.assert_close(out[0, 1, 5], attended, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", ["rope", "rope-alibi"])
def test_scores_know_distances_alone(function: str) -> None:
    """Keys before the first change no distance: the last queries on the last keys are as those on all, masked."""
    q, k, v = inputs(batch=1, heads=2, n=12, head_dim=8, dtype=torch.float64)
    keep = torch.arange(12)[None] >= 5
    whole = attention.oracle(function, q, k, v, key_mask=keep)
    alone = attention.oracle(function, q, k[:, :, 5:], v[:, :, 5:])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


def test_position_zero_is_not_rotated() -> None:
    q, k, v = inputs(batch=1, heads=2, n=1, head_dim=8, dtype=torch.float64)
    assert torch.equal(rotate(q, 0, 10000.0), q)
    module = attention.create("rope:eager", heads=2, head_dim=8)
    torch.testing.assert_close(module(q, k, v), attention.oracle("softmax", q, k, v))


def test_late_positions_keep_their_angles() -> None:
    """Angles in float32 are off by 1e-3 at position 30000; these are not."""
    x = inputs(batch=1, heads=1, n=4, head_dim=8)[0]
    exact = oracle_rotate(x.double(), torch.arange(30000, 30004), 10000.0)
    assert (rotate(x, 30000, 10000.0) - exact).abs().max() < 1e-6


def test_the_combination_is_rope_s_factor_and_alibi_s_bias() -> None:
    q, k, v = inputs(batch=1, heads=4, kv_heads=2, n=9, head_dim=8, dtype=torch.float64)
    for causal in (False, True):
        both = attention.create("rope-alibi:eager", heads=4, kv_heads=2, head_dim=8, causal=causal)(q, k, v)
        biased = attention.oracle("alibi", rotate(q, 0, 10000.0), rotate(k, 0, 10000.0), v, causal=causal)
        torch.testing.assert_close(both, biased, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(both, attention.oracle("rope", q, k, v, causal=causal))


@pytest.mark.parametrize("function", ["rope", "rope-alibi"])
def test_values_may_be_of_another_width(function: str) -> None:
    q, k, v = inputs(batch=1, heads=2, n=7, head_dim=8, value_dim=5)
    module = attention.create(f"{function}:sdpa", heads=2, head_dim=8, value_dim=5, causal=True)
    assert module(q, k, v).shape == (1, 2, 7, 5)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message


def test_what_is_kept_in_inference_serves_training() -> None:
    x = inputs(batch=1, heads=1, n=3, head_dim=6)[0]
    with torch.inference_mode():
        rotate(x, 17, 99.0)
    rotate(x.requires_grad_(), 17, 99.0).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("function", ["rope", "rope-alibi"])
def test_gradients_are_the_derivatives(function: str) -> None:
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=4, m=6, head_dim=4, dtype=torch.float64, grad=True)
    module = attention.create(f"{function}:eager", heads=2, kv_heads=1, head_dim=4, causal=True)
    assert torch.autograd.gradcheck(module, (q, k, v))


@pytest.mark.parametrize("function", ["rope", "rope-alibi"])
@pytest.mark.parametrize("base", [1.0, -3, "10000", float("inf"), True])
def test_a_base_that_cannot_be(function: str, base: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{function}: base={base!r} must be a number > 1")):
        attention.create(f"{function}:eager", heads=1, head_dim=8, base=base)


def test_an_odd_channel_is_not_rotated() -> None:
    x = inputs(batch=1, heads=1, n=3, head_dim=7)[0]
    assert torch.equal(rotate(x, 5, 100.0)[..., 6], x[..., 6])
    torch.testing.assert_close(rotate(x, 5, 100.0)[..., :6], rotate(x[..., :6], 5, 100.0))
