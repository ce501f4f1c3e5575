"""Primer's convolved attention: stock numbers, what holds of it, how it starts."""
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv1d, pad, scaled_dot_product_attention

import attention
from attention import registry
from attention.tests import cases, costs


@pytest.mark.parametrize("causal", [False, True])
def test_oracle_is_torch_s_convolution_and_torch_s_attention(causal: bool) -> None:
    q, k, v = cases.waves(heads=3, n=9)
    params = {f"conv_{x}": cases.wave((3, 3, 4), phase) for x, phase in (("q", 3.0), ("k", 4.0), ("v", 5.0))}

    def convolved(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        channels = x.transpose(2, 3).reshape(1, 12, 9)
        kernel = weights.transpose(1, 2).reshape(12, 1, 3).flip(-1)  # conv1d has the oldest token first
        return conv1d(pad(channels, (2, 0)), kernel, groups=12).view(1, 3, 4, 9).transpose(2, 3)

    q_, k_, v_ = (convolved(x, params[f"conv_{name}"]) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    expected = scaled_dot_product_attention(q_, k_, v_, is_causal=causal)
    actual = attention.oracle("primer", q, k, v, causal=causal, params=params)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_convolutions_start_as_the_authors_do() -> None:
    """lingvo, core/gshard_builder.py, DepthwiseConvAutoregressive: 0.5 for the token, 0.5 / 3 for either before it."""
    module = attention.create("primer:eager", heads=4, kv_heads=2, head_dim=8, dtype=torch.float64)
    weights = dict(module.named_parameters())
    assert {name: tuple(x.shape) for name, x in weights.items()} == {
        "conv_q": (4, 3, 8), "conv_k": (2, 3, 8), "conv_v": (2, 3, 8)}
    for x in weights.values():
        for own, start in zip(x.unbind(1), (0.5, 0.5 / 3, 0.5 / 3), strict=True):
            assert (own == start).all()


def test_a_convolution_of_the_token_alone_gives_softmax() -> None:
    q, k, v = cases.waves()
    one = {f"conv_{x}": torch.ones(2, 1, 4) for x in "qkv"}
    assert torch.equal(attention.oracle("primer", q, k, v, width=1, params=one), attention.oracle("softmax", q, k, v))


def test_padding_before_a_sequence_counts_as_none() -> None:
    q, k, v = cases.waves(n=8)
    padded = [torch.cat([torch.full_like(x[:, :, :3], 9.0), x], 2) for x in (q, k, v)]
    keep = torch.arange(11)[None] >= 3
    actual = attention.oracle("primer", *padded, causal=True, key_mask=keep)[:, :, 3:]
    torch.testing.assert_close(actual, attention.oracle("primer", q, k, v, causal=True), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "tiled"])
def test_gradients_are_the_derivatives(backend: str) -> None:
    assert cases.gradcheck(f"primer:{backend}", n=6, causal=True, padded=True)


def test_the_convolution_adds_operations_of_order_n_only() -> None:
    primer = registry.function("primer").forward_flops(4096, 4096, 64, False, width=3)
    softmax = registry.function("softmax").forward_flops(4096, 4096, 64, False)
    assert primer - softmax == 2 * 3 * 64 * 3 * 4096
    counted = (costs.flops(cases.call_on_meta(name, 1024)) for name in ("primer:eager", "softmax:eager"))
    assert len(set(counted)) == 1, "the same matrix products"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="width=0 must be a whole number >= 1"):
        attention.create("primer:eager", heads=1, head_dim=8, width=0)
    module = attention.create("primer:eager", heads=1, head_dim=8)
    q, k = torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="attends within one sequence: n=2 queries on m=4 keys"):
        module(q, k, k)
