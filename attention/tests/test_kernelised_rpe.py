"""Kernelised attention with relative positions: the formula term by term, the FFT, what it costs."""
from __future__ import annotations

import math

import pytest
import torch

import attention
from attention import registry
from attention.functions import kernelised_rpe
from attention.testing import Reference, inputs
from attention.tests import cases, costs

WAYS = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def learned(heads: int, seq_len: int, head_dim: int, features: int) -> dict[str, torch.Tensor]:
    return {"bias": cases.wave((heads, 2 * seq_len - 1), 3.0), "projection": cases.wave((features, head_dim), 4.0)}


@WAYS
def test_oracle_is_the_paper_s_sum_term_by_term(causal: bool) -> None:
    """Equation 10 in loops over i and j, in Python's own numbers."""
    q, k, v = cases.waves(heads=1, n=5)
    params = learned(1, 5, 4, features=3)
    w, b = params["projection"].tolist(), params["bias"][0].tolist()

    def phi(x: list[float]) -> list[float]:
        norm = math.sqrt(sum(a * a for a in x))
        return [math.exp(sum(a * c for a, c in zip(x, row, strict=True)) / norm - 0.5) for row in w]

    expected = []
    for i in range(5):
        pairs = ((phi(q[0, 0, i].tolist()), phi(k[0, 0, j].tolist()), j - i) for j in range(i + 1 if causal else 5))
        weights = [math.exp(b[ago + 4]) * sum(x * y for x, y in zip(one, other, strict=True))
                   for one, other, ago in pairs]
        expected.append([sum(x * v[0, 0, j, d].item() for j, x in enumerate(weights)) / sum(weights) for d in range(4)])
    actual = attention.oracle("kernelised-rpe", q, k, v, causal=causal, params=params, features=3)
    torch.testing.assert_close(actual[0, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_without_positions_it_is_performer_on_vectors_of_length_one() -> None:
    q, k, v = cases.waves()
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    torch.testing.assert_close(attention.oracle("kernelised-rpe", q, k, v, features=7),
                               attention.oracle("performer", q, k, v, features=7, scale=1.0), rtol=1e-12, atol=1e-12)


def test_error_to_softmax_with_the_same_positions_falls_as_features_grow() -> None:
    """Against softmax of q·k + b, q and k of length one, in the mean of four draws."""
    q, k, v = inputs(batch=1, heads=1, n=64, head_dim=16, dtype=torch.float64)
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    bias = cases.wave((1, 127), 3.0)
    i, j = torch.arange(64)[:, None], torch.arange(64)
    exact = (q @ k.mT + bias[:, j - i + 63]).softmax(-1) @ v

    def error(features: int) -> float:
        return sum((attention.oracle("kernelised-rpe", q, k, v, features=features, params={
            "bias": bias, "projection": kernelised_rpe.orthogonal_features(features, 16, seed)}) - exact
        ).square().mean().item() for seed in range(4)) / 4

    errors = [error(features) for features in (8, 64, 512)]
    print(f"mean squared error with 8, 64, 512 features: {errors}")
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < errors[0] / 10


@WAYS
@pytest.mark.parametrize("backend", ["eager", "fft"])
@pytest.mark.parametrize(("n", "m"), [(33, 33), (7, 40), (1, 50)])
def test_learned_positions_are_where_they_belong(backend: str, n: int, m: int, causal: bool,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """The case has biases that differ by distance, fewer keys than biases, and several blocks of features."""
    monkeypatch.setitem(kernelised_rpe.BLOCK, "cpu", 10_000)
    module = attention.create(f"kernelised-rpe:{backend}", heads=2, kv_heads=1, head_dim=8, seq_len=50, causal=causal,
                              features=20)
    bias = module.get_parameter("bias")
    with torch.no_grad():
        bias.copy_(cases.wave((2, 99), 3.0))
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=n, m=m, head_dim=8)
    exact = attention.oracle("kernelised-rpe", q, k, v, causal=causal, features=20,
                             params={name: x.detach().double() for name, x in module.params.items()})
    assert (module(q, k, v) - exact).abs().max() < 1e-5


@WAYS
def test_gradients_are_the_derivatives(causal: bool) -> None:
    assert cases.gradcheck("kernelised-rpe:eager", n=3, m=4, causal=causal, padded=True, features=2)


def test_gradients_by_fft_are_the_derivatives() -> None:
    assert cases.gradcheck("kernelised-rpe:fft", n=3, m=4, padded=True, features=2)


def test_causal_gradients_by_fft_keep_the_error_rule() -> None:
    q, k, v = inputs(batch=1, heads=2, n=40, head_dim=8)
    module = attention.create("kernelised-rpe:fft", heads=2, head_dim=8, seq_len=40, causal=True, features=8)
    report = Reference("kernelised-rpe", q, k, v, causal=True, features=8).check(module, grad=True)
    assert report.ok, report.message


def test_operations_grow_with_n_log_n_and_memory_with_n() -> None:
    described = registry.function("kernelised-rpe")
    for causal in (False, True):
        assert costs.exponent(lambda n, causal=causal: described.forward_flops(
            n, n, 64, causal, features=64, seed=0)) < 1.2  # type: ignore[misc]
    assert costs.exponent(lambda n: costs.peak_bytes(cases.call_on_meta("kernelised-rpe:fft", n, features=4))) < 1.2
    assert costs.exponent(lambda n: costs.flops(cases.call_on_meta("kernelised-rpe:eager", n, features=4))) > 1.9


def test_the_formula_by_hand() -> None:
    """n = m = 4, D = 1, one feature: sequences of 8, one of v and one of 1. Five transforms of 2.5·8·3 = 60, spectra
    6·2·5, the product with φ(q) 2·2·4, projections 2·8."""
    actual = registry.function("kernelised-rpe").forward_flops(4, 4, 1, False, features=1, seed=0)
    assert actual == 5 * 60 + 60 + 16 + 16


def test_what_cannot_be_is_refused() -> None:
    for options, message in (({"features": 0}, "features=0 must be"), ({"seed": -1}, "seed=-1 must be")):
        with pytest.raises(ValueError, match=message):
            attention.create("kernelised-rpe:eager", heads=1, head_dim=8, seq_len=4, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seq_len=None must be the longest sequence's length"):
        attention.create("kernelised-rpe:fft", heads=1, head_dim=8)
    module = attention.create("kernelised-rpe:fft", heads=1, head_dim=8, seq_len=4)
    with pytest.raises(ValueError, match="5 keys: its biases were built for seq_len=4"):
        module(*(torch.ones(1, 1, 5, 8) for _ in range(3)))
    with pytest.raises(ValueError, match="n=4 queries on m=3 keys: some stand before the first key"):
        module(torch.ones(1, 1, 4, 8), torch.ones(1, 1, 3, 8), torch.ones(1, 1, 3, 8))
    reason = attention.why_not("kernelised-rpe:fft", dtype=torch.float64, causal=True)
    assert reason is not None
    assert "use eager, or float32" in reason
