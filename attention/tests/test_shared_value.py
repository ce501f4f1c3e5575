"""TFT's interpretable heads: published numbers, and what sharing and averaging mean."""
from __future__ import annotations

import pytest
import torch

import attention
from attention.testing import check, inputs
from attention.tests.test_oracles import wave

# sktime/pytorch-forecasting at be1c1db7fbe05b46d82960cd60efe55ed0a4d961, temporal_fusion_transformer/sub_modules.py:
# InterpretableMultiHeadAttention in float64, its projections set to hand each head its own part; positions 1 and 5.
PUBLISHED = {
    False: [[-1.1986238678714582, -1.7797426566347356, -1.5238206647365775, -0.551222003858118],
            [1.3695635389093113, 0.49901800313095074, -0.6062234968912832, -1.4263486138221115]],
    True: [[-1.7892914340585453, -1.2903615797071888, -0.18455451196368378, 1.0080514265001395],
           [1.3695635389093113, 0.49901800313095074, -0.6062234968912832, -1.4263486138221115]],
}


@pytest.mark.parametrize("causal", PUBLISHED)
def test_numbers_are_the_published(causal: bool) -> None:
    q, k, v = wave((1, 3, 6, 4), 0.0), wave((1, 3, 6, 4), 1.0), wave((1, 1, 6, 4), 2.0).expand(1, 3, 6, 4)
    expected = torch.tensor(PUBLISHED[causal], dtype=torch.float64)
    module = attention.create("shared-value:eager", heads=3, head_dim=4, causal=causal)
    for out in (attention.oracle("shared-value", q, k, v, causal=causal), module(q, k, v)):
        for head in range(3):
            torch.testing.assert_close(out[0, head, [1, 5]], expected, rtol=1e-12, atol=1e-12)


def test_it_is_the_mean_of_weights_times_the_mean_of_values() -> None:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=5, m=9, head_dim=8, value_dim=3, dtype=torch.float64)
    one_hot = torch.eye(9, dtype=torch.float64).expand(2, 2, 9, 9)
    weights = attention.oracle("softmax", q, k, one_hot).mean(1)
    out = attention.oracle("shared-value", q, k, v)
    torch.testing.assert_close(out[:, 0], weights @ v.mean(1), rtol=1e-12, atol=1e-12)


def test_heads_show_in_one_another() -> None:
    """The registry says that they do; every other function is held to keep them apart."""
    q, k, v = inputs(batch=2, heads=4, n=6, head_dim=8)
    module = attention.create("shared-value:sdpa", heads=4, head_dim=8)
    before = module(q, k, v)
    k[0, 3] = 0
    changed = (module(q, k, v) != before).flatten(2).any(-1)
    assert changed.tolist() == [[True] * 4, [False] * 4]
    assert not module.variant.function.apart


def test_one_head_is_softmax() -> None:
    q, k, v = inputs(batch=1, heads=1, n=7, head_dim=8, dtype=torch.float64)
    torch.testing.assert_close(attention.oracle("shared-value", q, k, v, causal=True),
                               attention.oracle("softmax", q, k, v, causal=True))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_of_another_width_keep_the_error_rule(backend: str, dtype: torch.dtype) -> None:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=19, m=33, head_dim=16, value_dim=8, dtype=dtype)
    module = attention.create(f"shared-value:{backend}", heads=4, kv_heads=2, head_dim=16, value_dim=8, causal=True)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_gradients_are_the_derivatives(backend: str) -> None:
    q, k, v = inputs(batch=1, heads=2, n=4, m=6, head_dim=3, dtype=torch.float64, grad=True)
    module = attention.create(f"shared-value:{backend}", heads=2, head_dim=3, causal=True)
    assert torch.autograd.gradcheck(module, (q, k, v))
