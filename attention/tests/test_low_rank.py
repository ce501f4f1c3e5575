"""Low-rank attention, with the n x n matrix and without: what holds, what it costs, what study 003 claims of it."""
from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import attention
from attention import registry
from attention.testing import inputs
from attention.tests import cases, costs

# github.com/cmsflash/efficient-attention at 46a5f9e, efficient_attention.py, its convolutions replaced by q, k and v.
EFFICIENT = [[1.4185526622958462, 1.365123784751248, 0.6696558605906017, -0.34076167846726324],
             [0.7869166780419634, 0.9920311115629536, 0.7305778124021804, 0.1255223524754448]]
BOTH = pytest.mark.parametrize("function", ["low-rank", "low-rank-linear"])


def test_the_linear_form_is_efficient_attention_with_no_projection_and_no_scale() -> None:
    params = {"F": torch.eye(4).expand(2, 4, 4)}
    cases.is_frozen(attention.oracle("low-rank-linear", *cases.waves(), scale=1.0, rank=4, params=params), EFFICIENT)


@pytest.mark.parametrize("causal", [False, True])
def test_full_rank_gives_softmax(causal: bool) -> None:
    q, k, v = cases.waves()
    torch.testing.assert_close(attention.oracle("low-rank", q, k, v, causal=causal, rank=4),
                               attention.oracle("softmax", q, k, v, causal=causal), rtol=1e-13, atol=1e-13)


def test_scores_of_a_stock_library() -> None:
    """softmax(scale (qF)(kF)ᵀ) v by torch's own attention."""
    q, k, v = cases.waves()
    F = cases.wave((2, 4, 3), 3.0)
    expected = torch.nn.functional.scaled_dot_product_attention(q @ F, k @ F, v, scale=0.5)
    actual = attention.oracle("low-rank", q, k, v, rank=3, params={"F": F})
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_error_falls_as_rank_grows() -> None:
    errors = [cases.mean_square("low-rank", head_dim=32, rank=rank) for rank in (4, 8, 16, 24, 32)]
    print(f"mean squared error at rank 4, 8, 16, 24, 32 of 32: {errors}")
    assert all(more > less for more, less in itertools.pairwise(errors))
    assert errors[-1] < 1e-28


def test_the_claimed_error_needs_nearly_full_rank() -> None:
    """Study 003: mean squared error 2.1e-4 at n = 1024, d = 64, rank and data unsaid. On standard normal inputs no rank
    to 56 of 64 comes that near; measured are its outputs."""
    errors = {rank: cases.mean_square("low-rank", n=1024, heads=1, head_dim=64, rank=rank) for rank in (32, 48, 56, 64)}
    for rank, error in errors.items():
        print(f"rank {rank}: claim 2.1e-04; measured {error:.1e}")
    assert errors[56] > 2.1e-4 > errors[64]


@BOTH
def test_F_starts_orthonormal_and_its_own_for_each_head(function: str) -> None:
    F = attention.create(f"{function}:eager", heads=4, kv_heads=2, head_dim=16, rank=8, dtype=torch.float64).params["F"]
    assert isinstance(F, torch.nn.Parameter)
    assert F.shape == (2, 16, 8)
    torch.testing.assert_close(F.mT @ F, torch.eye(8, dtype=torch.float64).expand(2, 8, 8), rtol=0, atol=1e-14)
    assert not torch.equal(F[0], F[1])


def test_the_linear_form_does_not_see_the_order_of_keys() -> None:
    q, k, v = cases.waves()
    order = [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(attention.oracle("low-rank-linear", q, k[:, :, order], v[:, :, order], rank=3),
                               attention.oracle("low-rank-linear", q, k, v, rank=3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["low-rank:eager", "low-rank:sdpa", "low-rank-linear:eager",
                                  "low-rank-linear:chunked"])
def test_gradients_are_the_derivatives(name: str) -> None:
    assert cases.gradcheck(name, n=5, m=7, head_dim=3, padded=True, rank=2)


def test_only_the_linear_form_costs_less_than_n_squared() -> None:
    """Operations and bytes grow with n² in the study's form, which keeps the n x n softmax, and with n in the other."""
    def grown(name: str) -> tuple[float, float]:
        return (costs.exponent(lambda n: costs.flops(cases.call_on_meta(name, n, rank=32))),
                costs.exponent(lambda n: costs.peak_bytes(cases.call_on_meta(name, n, rank=32, grad=True))))

    as_proposed, linear = grown("low-rank:eager"), grown("low-rank-linear:chunked")
    print(f"exponents of operations and bytes: claim under 2; low-rank {as_proposed}, low-rank-linear {linear}")
    assert min(as_proposed) > 1.8
    assert max(linear) < 1.1


def test_the_formulas_count_what_is_counted() -> None:
    for name, way in (("low-rank:eager", False), ("low-rank-linear:chunked", False)):
        counted = costs.flops(cases.call_on_meta(name, 1024, rank=32, causal=way)) / 2
        described = registry.function(name.partition(":")[0])
        assert described.forward_flops(1024, 1024, 64, way, rank=32) == counted


def test_memory_of_the_study() -> None:
    """Study 003 claims 12.1 -> 7.8 GB, -35.5 %, at n = 2048 and wants 30 % from 1024 on. Counted, forward and backward:
    its form saves nothing to speak of, since the scores are as many; the linear form saves it all."""
    for n in (1024, 2048):
        dense = costs.peak_bytes(cases.call_on_meta("softmax:eager", n, grad=True))
        study, linear = (costs.peak_bytes(cases.call_on_meta(name, n, grad=True, rank=32))
                         for name in ("low-rank:eager", "low-rank-linear:chunked"))
        print(f"n={n}: claim 35.5 % less; counted {1 - study / dense:.1%} less, without the n x n matrix "
              f"{1 - linear / dense:.1%} less")
        assert study > 0.95 * dense
        assert linear < 0.7 * dense


@BOTH
@pytest.mark.parametrize(("rank", "message"), [(0, "rank=0 must be a whole number >= 1"),
                                            (9, "rank=9 must be at most head_dim=8")])
def test_ranks_that_cannot_be_are_refused(function: str, rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        attention.create(f"{function}:eager", heads=1, head_dim=8, rank=rank)
    assert "\n" not in str(error.value)


def test_the_linear_form_refuses_to_be_causal() -> None:
    arguments: dict[str, Any] = {"heads": 1, "head_dim": 8, "rank": 4, "causal": True}
    with pytest.raises(ValueError, match="no causal form"):
        attention.create("low-rank-linear:chunked", **arguments)
    assert attention.create("low-rank:eager", **arguments)(*inputs(batch=1, heads=1, n=4, head_dim=8)).isfinite().all()
