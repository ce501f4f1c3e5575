"""Hard attention: which keys are kept, what flows through them, and that chunks bound its memory."""
from __future__ import annotations

import math
import re

import pytest
import torch

import attention
from attention import registry
from attention.functions import hard_attention
from attention.testing import check, inputs
from attention.tests import costs


def test_numbers_by_hand() -> None:
    """Scores ln 1, ln 2, ln 3, ln 4 on values 1, 10, 100, 1000: the best two weigh 3/7 and 4/7."""
    q, v = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 10, 100, 1000]).view(1, 1, 4, 1)
    k = torch.tensor([1.0, 2, 3, 4]).log().view(1, 1, 4, 1)
    for top, expected in ((1, 1000), (2, 4300 / 7), (3, 4320 / 9), (4, 4321 / 10), (9, 4321 / 10)):
        assert attention.oracle("hard-attention", q, k, v, top=top).item() == pytest.approx(expected)
        module = attention.create("hard-attention:eager", heads=1, head_dim=1, top=top)
        assert module(q, k, v).item() == pytest.approx(expected)


@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_ties_with_the_last_one_kept_are_kept(backend: str) -> None:
    q, k = torch.ones(1, 1, 1, 2), torch.tensor([3.0, 1, 1, 0, 1]).repeat(2, 1).T.view(1, 1, 5, 2)
    module = attention.create(f"hard-attention:{backend}", heads=1, head_dim=2, top=2)
    v = torch.arange(10.0).view(1, 1, 5, 2)
    expected = attention.oracle("softmax", q, k, v, key_mask=torch.tensor([[True, True, True, False, True]]))
    torch.testing.assert_close(module(q, k, v), expected.float())


@pytest.mark.parametrize("backend", ["eager", "chunked"])
@pytest.mark.parametrize("causal", [True, False])
def test_all_keys_are_softmax(backend: str, causal: bool) -> None:
    q, k, v = inputs(batch=1, heads=4, kv_heads=2, n=9, m=20, head_dim=8, value_dim=5, dtype=torch.float64)
    module = attention.create(f"hard-attention:{backend}", heads=4, kv_heads=2, head_dim=8, value_dim=5, causal=causal,
                              top=20)
    torch.testing.assert_close(module(q, k, v), attention.oracle("softmax", q, k, v, causal=causal), rtol=1e-12,
                               atol=1e-12)


def test_error_to_softmax_falls_with_more_keys() -> None:
    q, k, v = inputs(batch=1, heads=4, n=128, head_dim=16)
    exact = attention.oracle("softmax", q, k, v)
    errors = [(attention.oracle("hard-attention", q, k, v, top=top) - exact).square().mean().item()
              for top in (1, 4, 16, 64, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-20 < errors[-2]


@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_gradients_flow_through_kept_keys_alone(backend: str) -> None:
    q, k, v = inputs(batch=1, heads=1, n=1, m=12, head_dim=4, grad=True)
    attention.create(f"hard-attention:{backend}", heads=1, head_dim=4, top=3)(q, k, v).sum().backward()
    top = (q @ k.transpose(-1, -2))[0, 0, 0].topk(3).indices.sort().values.tolist()
    assert k.grad is not None
    assert v.grad is not None
    assert v.grad[0, 0].any(-1).nonzero().flatten().tolist() == top
    assert k.grad[0, 0].any(-1).nonzero().flatten().tolist() == top


@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_gradients_are_the_derivatives(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_attention, "ROWS", 3)
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=5, m=7, head_dim=3, dtype=torch.float64, grad=True)
    module = attention.create(f"hard-attention:{backend}", heads=2, kv_heads=1, head_dim=3, causal=True, top=2)
    keep = torch.tensor([[True, False, True, True, True, False, True]])
    assert torch.autograd.gradcheck(lambda *x: module(*x, key_mask_BM=keep), (q, k, v))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_do_not_show(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_attention, "ROWS", rows)
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=23, m=31, head_dim=8)
    for causal in (True, False):
        module = attention.create("hard-attention:chunked", heads=4, kv_heads=2, head_dim=8, causal=causal, top=4)
        report = check(module, q, k, v, grad=True, key_mask=torch.rand(2, 31) > 0.4)
        assert report.ok, report.message


def test_a_rounding_keeps_no_other_key() -> None:
    """Scores that are equal in float32 are still distinct."""
    q, v = torch.ones(1, 1, 1, 2), torch.tensor([[1.0, 0], [0, 1]]).view(1, 1, 2, 2)
    for first in (2.0 ** -30, -2.0 ** -30):
        k = torch.tensor([[1.0, first], [1, 0]]).view(1, 1, 2, 2)
        out = attention.create("hard-attention:eager", heads=1, head_dim=2, top=1)(q, k, v)
        assert out.flatten().tolist() == ([1, 0] if first > 0 else [0, 1])


def test_flops_by_hand_and_peak_bytes_of_chunks() -> None:
    """Causal, 4 queries see 1 + 2 + 3 + 4 keys and keep 1 + 2 + 2 + 2 of them."""
    described = registry.function("hard-attention")
    assert described.forward_flops(4, 4, 8, True, top=2) == 2 * 8 * (10 + 7)
    assert described.forward_flops(4, 6, 8, False, top=9) == 2 * 8 * (24 + 24)

    def peak(n: int, backend: str = "chunked") -> int:
        module = attention.create(f"hard-attention:{backend}", heads=1, head_dim=16)
        q, k, v = inputs(batch=1, heads=1, n=n, head_dim=16, grad=True)
        return costs.peak_bytes(lambda: module(q, k, v).sum().backward())

    assert costs.exponent(peak, (512, 4096)) < 1.1
    assert peak(1024) < 0.7 * peak(1024, "eager")
    for backend in ("eager", "chunked"):
        predicted = attention.peak_bytes(f"hard-attention:{backend}", batch=1, heads=1, n=1024, head_dim=16,
                                         dtype=torch.float32, grad=True)
        assert 0.6 < predicted / peak(1024, backend) < 1.7


@pytest.mark.parametrize("top", [0, -1, 2.0, None, math.inf])
def test_a_number_of_keys_that_cannot_be(top: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"hard-attention: top={top!r} must be a whole number >= 1")):
        attention.create("hard-attention:eager", heads=1, head_dim=8, top=top)
