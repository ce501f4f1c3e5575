"""Auto-Correlation: the authors' numbers, the delays it finds, and what it costs."""
from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import attention
from attention.functions.autocorrelation import count
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["autocorrelation:eager", "autocorrelation:fft"])


def build(name: str, heads: int = 3, head_dim: int = 4, **options: Any) -> attention.Attention:
    return attention.create(name, heads=heads, head_dim=head_dim, dtype=torch.float64, **options)


def test_oracle_gives_the_authors_numbers() -> None:
    shared.is_published("autocorrelation", attention.oracle("autocorrelation", *shared.qkv(40), factor=2))


@BACKENDS
def test_with_all_delays_it_is_a_circular_convolution(name: str) -> None:
    """The weights of all n delays, convolved with the values, by FFT in one go."""
    q, k, v = shared.qkv(24)
    correlation = torch.stack([(q.roll(-delay, 2) * k).sum((-1, -2)) for delay in range(24)], -1)
    weights = (correlation / 4).softmax(-1)
    spectrum = torch.fft.fft(weights, dim=-1).conj()[..., None] * torch.fft.fft(v, dim=2)
    torch.testing.assert_close(build(name, factor=100)(q, k, v), torch.fft.ifft(spectrum, dim=2).real,
                               rtol=1e-10, atol=1e-10)


@BACKENDS
def test_moving_the_series_moves_the_output(name: str) -> None:
    q, k, v = shared.qkv(40)
    out = build(name, factor=2)(q, k, v)
    moved = build(name, factor=2)(*(x.roll(7, 2) for x in (q, k, v)))
    torch.testing.assert_close(moved, out.roll(7, 2), rtol=1e-10, atol=1e-10)


@BACKENDS
def test_a_period_is_found(name: str) -> None:
    """A series of period 12 beside values of period 12: the best delays are multiples of it, so values stay."""
    t = torch.arange(96, dtype=torch.float64)
    series = torch.stack([torch.cos(2 * math.pi * t / 12), torch.sin(2 * math.pi * t / 12)], -1)[None, None]
    values = (t % 12)[None, None, :, None].expand(-1, -1, -1, 2)
    torch.testing.assert_close(build(name, 1, 2)(series, series, values), values, rtol=1e-9, atol=1e-9)
    late = build(name, 1, 2)(series.roll(5, 2), series, values)
    torch.testing.assert_close(late, values.roll(-5, 2), rtol=1e-9, atol=1e-9)


def test_one_delay_moves_the_values() -> None:
    """factor below 1 / ln n: the single best delay has weight 1."""
    assert count(40, 0.1) == 1
    q, k, v = shared.qkv(40)
    out = build("autocorrelation:fft", factor=0.1)(q, k, v)
    moved = torch.stack([v[0, 0].roll(-delay, 0) for delay in range(40)])
    assert (moved - out[0, 0]).abs().amax((1, 2)).min() == 0


@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_short_and_odd_lengths(n: int) -> None:
    q, k, v = shared.qkv(n)
    expected = attention.oracle("autocorrelation", q, k, v)
    torch.testing.assert_close(build("autocorrelation:fft")(q, k, v), expected, rtol=1e-10, atol=1e-10)


@BACKENDS
def test_gradients(name: str) -> None:
    shared.has_right_gradients(name, 10, factor=1)


def test_flops_and_memory_grow_as_n_log_n() -> None:
    """FFTs are not counted, so the formula stands, here by hand for n = 8, D = 1: three transforms of
    2.5 · 8 · 3, 8 a frequency of 5, and 2 a position and delay of 2."""
    assert shared.registered_flops("autocorrelation", 8, 1) == 3 * 60 + 8 * 5 + 2 * 8 * 2
    assert exponent(lambda n: shared.registered_flops("autocorrelation", n)) < 1.2
    assert exponent(lambda n: shared.peak_bytes("autocorrelation:fft", n)) < 1.2
    assert exponent(lambda n: shared.peak_bytes("autocorrelation:eager", n)) > 1.9


def test_memory_is_a_third_below_softmax_s_and_as_predicted() -> None:
    assert shared.peak_bytes("autocorrelation:fft", 1024) < 0.7 * shared.peak_bytes("softmax:eager", 1024)
    for name in ("autocorrelation:eager", "autocorrelation:fft"):
        assert 1 <= shared.predicted_over_counted(name, 1024) < 2


@pytest.mark.parametrize("factor", [0, -1, "2", True])
def test_bad_options(factor: object) -> None:
    with pytest.raises(ValueError, match=r"^autocorrelation: factor=.* must be a number above 0$"):
        attention.create("autocorrelation:fft", heads=1, head_dim=4, factor=factor)


def test_it_needs_one_series() -> None:
    with pytest.raises(ValueError, match="n=8 queries on m=5 keys"):
        build("autocorrelation:fft")(*shared.qkv(8, 5))
