"""Nyströmformer: the authors' numbers, what holds of it, what it costs."""
from __future__ import annotations

import itertools

import pytest
import torch

import attention
from attention import registry
from attention.functions import nystrom
from attention.tests import cases, costs

# github.com/mlpen/Nystromformer at 5689313, LRA/code/attention_nystrom.py: three landmarks for six tokens, no
# convolution, the pseudo-inverse started for each matrix of its own.
ROWS = [[1.7429215147870842, 1.98422508650103, 1.2923165956613187, -0.007388583121735737],
        [-0.20060144959945614, 0.2875545738108237, 0.6404691879937138, 0.6921611354560397]]


def test_oracle_gives_the_authors_numbers() -> None:
    cases.is_frozen(attention.oracle("nystrom", *cases.waves(), landmarks=3), ROWS, tolerance=1e-12)


def test_a_landmark_for_every_token_gives_softmax() -> None:
    q, k, v = cases.waves()
    torch.testing.assert_close(attention.oracle("nystrom", q, k, v, landmarks=6),
                               attention.oracle("softmax", q, k, v), rtol=1e-14, atol=1e-14)


def test_error_falls_as_landmarks_grow() -> None:
    """The sequence is smooth, so the tokens of a segment are alike."""
    along = torch.linspace(0, 3, 128, dtype=torch.float64)[:, None] * torch.arange(1, 9)
    q, k, v = (f(along)[None, None] for f in (torch.sin, torch.cos, torch.sin))
    exact = attention.oracle("softmax", q, k, v)
    errors = [(attention.oracle("nystrom", q, k, v, landmarks=landmarks, iterations=20) - exact).square().mean().item()
              for landmarks in (4, 8, 16, 32)]
    print(f"mean squared error with 4, 8, 16, 32 landmarks for 128 tokens: {errors}")
    assert all(more > less for more, less in itertools.pairwise(errors))


def test_segments_are_as_even_as_the_length_allows() -> None:
    mean = nystrom.segments(11, 4, torch.device("cpu"), torch.float64)
    sizes = (mean > 0).sum(1).tolist()
    assert sizes == [2, 3, 3, 3]
    torch.testing.assert_close(mean.sum(1), torch.ones(4, dtype=torch.float64))
    assert ((mean > 0).sum(0) == 1).all()


def test_the_pseudo_inverse_converges_to_torch_s() -> None:
    A = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    errors = [(nystrom.pseudo_inverse(A, steps) - torch.linalg.pinv(A)).abs().max().item() for steps in (2, 4, 6, 20)]
    assert errors[0] > errors[1] > errors[2] > 1e-9  # after twenty only rounding is left
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_gradients_are_the_derivatives(backend: str) -> None:
    assert cases.gradcheck(f"nystrom:{backend}", n=7, padded=True, landmarks=3)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_operations_and_memory_grow_with_n(backend: str) -> None:
    assert costs.exponent(lambda n: costs.flops(cases.call_on_meta(f"nystrom:{backend}", n, landmarks=32))) < 1.1
    assert costs.exponent(lambda n: costs.peak_bytes(cases.call_on_meta(f"nystrom:{backend}", n, landmarks=32,
                                                                        grad=True))) < 1.1


def test_the_formula_counts_what_is_counted() -> None:
    described = registry.function("nystrom")
    counted = costs.flops(cases.call_on_meta("nystrom:eager", 1024)) / 2
    assert described.forward_flops(1024, 1024, 64, False, landmarks=64, iterations=6) == counted


@pytest.mark.parametrize(("options", "message"), [({"landmarks": 0}, "landmarks=0 must be a whole number >= 1"),
                                               ({"iterations": 0}, "iterations=0 must be a whole number >= 1")])
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        attention.create("nystrom:eager", heads=1, head_dim=8, **options)
    assert "\n" not in str(error.value)


def test_more_landmarks_than_tokens_are_refused() -> None:
    module = attention.create("nystrom:eager", heads=1, head_dim=8, landmarks=5)
    with pytest.raises(ValueError, match="landmarks=5 must be at most the 4 tokens"):
        module(*(torch.zeros(1, 1, 4, 8) for _ in range(3)))
    with pytest.raises(ValueError, match="no causal form"):
        attention.create("nystrom:eager", heads=1, head_dim=8, causal=True)
