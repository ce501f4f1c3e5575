"""Performer: the authors' numbers, its features, its convergence to softmax, what it costs."""
from __future__ import annotations

import itertools

import pytest
import torch

import attention
from attention import registry
from attention.functions import _linear
from attention.functions.performer import orthogonal_features
from attention.testing import inputs
from attention.tests import cases, costs

# github.com/lucidrains/performer-pytorch at fc8b784, performer_pytorch/performer_pytorch.py: softmax_kernel, which its
# authors transcribed from google-research's JAX code, and both linear attentions, with their eps at 0.
FULL = [[1.3259128329871066, 1.7293892996939646, 1.3195069563015371, 0.2890398734955669],
        [0.05913822747839298, 0.9693849720075695, 1.4237148171435685, 1.208449337619275]]
CAUSAL = [[1.8185948536513634, 0.8547597604676596, -0.5110822040536624, -1.6365542221288205], FULL[1]]
WAYS = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


@pytest.mark.parametrize(("causal", "rows"), [(False, FULL), (True, CAUSAL)], ids=["full", "causal"])
def test_oracle_gives_the_authors_numbers(causal: bool, rows: list[list[float]]) -> None:
    params = {"projection": cases.wave((5, 4), 3.0) * 0.6}
    cases.is_frozen(attention.oracle("performer", *cases.waves(), causal=causal, features=5, params=params), rows)


def test_features_are_orthogonal_in_blocks_and_as_long_as_gaussian_ones() -> None:
    w = orthogonal_features(4096, 64, seed=0)
    for block in w.unflatten(0, (-1, 64)):
        product = block @ block.mT
        assert (product - product.diag().diag()).abs().max() < 1e-12
    assert w.square().sum(1).mean().item() == pytest.approx(64, rel=0.02)  # chi squared: mean D, variance 2 D
    assert w.square().sum(1).var().item() == pytest.approx(128, rel=0.15)
    assert orthogonal_features(70, 64, seed=0).shape == (70, 64)


def test_a_seed_draws_its_own_features_each_time_the_same() -> None:
    one, again, other = (orthogonal_features(32, 16, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    module = attention.create("performer:eager", heads=1, head_dim=16)
    assert not list(module.parameters())
    assert dict(module.named_buffers())["projection"].shape == (256, 16)


@WAYS
def test_error_falls_as_features_grow(causal: bool) -> None:
    """Against softmax attention, in the mean of six draws of features; scores of standard deviation 0.2, since the
    variance of a feature grows as their exponential."""
    def error(features: int) -> float:
        return sum(cases.mean_square("performer", causal=causal, heads=1, scale=0.05, features=features, seed=seed)
                   for seed in range(6)) / 6

    errors = [error(features) for features in (16, 64, 256, 1024)]
    print(f"mean squared error at 16, 64, 256, 1024 features: {errors}")
    assert all(more > less for more, less in itertools.pairwise(errors))
    assert errors[-1] < errors[0] / 10


def test_the_kernel_is_right_on_average() -> None:
    """Unbiased: the mean of φ(q)·φ(k) over many features is exp(q·k)."""
    q, k = (0.15 * cases.wave((8,), phase) for phase in (0.0, 1.0))
    w = orthogonal_features(200_000, 8, seed=0)
    estimate = ((w @ (q + k)) - (q.square().sum() + k.square().sum()) / 2).exp().mean()
    assert estimate.item() == pytest.approx((q @ k).exp().item(), rel=0.01)


@pytest.mark.parametrize("backend", ["eager", "chunked"])
@WAYS
def test_keys_far_apart_lose_nothing(backend: str, causal: bool) -> None:
    """Kernel values that span e^200 within a row, beyond float32: the stabiliser has to cancel row by row."""
    q, k, v = inputs(batch=1, heads=1, n=200, head_dim=16)
    k = k * torch.linspace(0.1, 8, 200)[:, None]
    module = attention.create(f"performer:{backend}", heads=1, head_dim=16, causal=causal, features=32)
    projection = {x: p.double() for x, p in module.params.items()}
    exact = attention.oracle("performer", q, k, v, causal=causal, params=projection, features=32)
    assert (module(q, k, v) - exact).abs().max() < 1e-3


@WAYS
@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_gradients_are_the_derivatives(backend: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "CHUNK", 2)
    assert cases.gradcheck(f"performer:{backend}", n=5, m=7, causal=causal, padded=True, features=3)


@WAYS
def test_operations_and_memory_grow_with_n(causal: bool) -> None:
    def operations(n: int) -> int:
        return costs.flops(cases.call_on_meta("performer:chunked", n, causal=causal))

    def memory(n: int) -> int:
        return costs.peak_bytes(cases.call_on_meta("performer:chunked", n, causal=causal, grad=True))

    assert costs.exponent(operations) < 1.1
    assert costs.exponent(memory) < 1.1


@WAYS
def test_the_formula_counts_what_is_counted(causal: bool) -> None:
    """But for the chunks' sums carried on, (n / 128)² R D, 3 % here."""
    counted = costs.flops(cases.call_on_meta("performer:chunked", 1024, causal=causal)) / 2
    formula = registry.function("performer").forward_flops(1024, 1024, 64, causal, features=256, seed=0)
    assert formula == pytest.approx(counted, rel=0.04 if causal else 1e-9)


def test_memory_is_at_least_30_percent_below_eager_softmax_from_2048_on() -> None:
    """Study 003 claims it from n = 1024; with 256 features it holds from 2048 on."""
    less = {}
    for n in (1024, 2048, 4096):
        dense, chunked = (costs.peak_bytes(cases.call_on_meta(name, n, causal=True, grad=True))
                        for name in ("softmax:eager", "performer:chunked"))
        less[n] = 1 - chunked / dense
        print(f"n={n}: claim at least 30 % less; counted {less[n]:.0%} less")
    assert less[1024] < 0.3 <= less[2048] < less[4096]


@pytest.mark.parametrize(("options", "message"), [
    ({"features": 0}, "features=0 must be a whole number >= 1"),
    ({"features": 2.5}, "features=2.5 must be a whole number >= 1"),
    ({"seed": -1}, "seed=-1 must be a whole number >= 0"),
])
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        attention.create("performer:eager", heads=1, head_dim=8, **options)
    assert "\n" not in str(error.value)
