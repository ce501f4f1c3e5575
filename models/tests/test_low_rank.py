"""Low-rank factors: exact where the rank is there, else off by the singular values that were dropped."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from models import quantization
from models.tests import quantized


def layer(rank: int) -> nn.Linear:
    """Builds a layer of 32 inputs and 48 outputs whose weight has this rank."""
    random = torch.Generator().manual_seed(0)
    linear = nn.Linear(32, 48)
    linear.weight = nn.Parameter(torch.randn(48, rank, generator=random) @ torch.randn(rank, 32, generator=random))
    return linear


def factors(linear: nn.Linear, ratio: float) -> nn.Module:
    return quantization.get("low-rank", ratio=ratio, dtype=torch.float32).twin(linear)


def test_a_weight_of_that_rank_gives_the_same_answers():
    linear, x = layer(rank=8), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    assert quantized.distance(factors(linear, 0.5)(x), linear(x)) < 1e-5  # rank 9


@pytest.mark.parametrize(("ratio", "rank"), [(0.01, 1), (0.2, 3), (0.5, 9), (1.0, 19)])
def test_the_error_is_that_of_the_dropped_singular_values(ratio, rank):
    linear = layer(rank=32)
    dropped = torch.linalg.svdvals(linear.weight.detach())[rank:].norm()
    error = factors(linear, ratio)(torch.eye(32)) - linear(torch.eye(32))
    torch.testing.assert_close(error.norm(), dropped, rtol=1e-4, atol=0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_a_ratio_outside_is_refused(ratio):
    with pytest.raises(ValueError, match=r"^low-rank: ratio=.* is not in \(0, 1\]"):
        quantization.get("low-rank", ratio=ratio)
