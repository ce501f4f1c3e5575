"""Stores each weight as two thinner ones (Cahyawijaya, Greenformers, arXiv 2109.06762). It is no quantisation, but a
method like those: it makes a model smaller at a cost in quality, and one gate judges all.

How much it costs depends on what the weights have learnt: random ones have no low rank. The factors are parameters, so
they can be trained further.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.quantization.method import Method, register


@register("low-rank")
@dataclass(frozen=True)
class LowRank(Method):
    """W (outputs, inputs) becomes B A by its largest singular values, which of that rank is nearest to W (Frobenius).

    `ratio` is the number of the factors' weights over that of W's. Raises ValueError for one outside (0, 1].
    """

    ratio: float = 0.75

    learnt = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"low-rank: ratio={self.ratio} is not in (0, 1]: above 1 the factors are larger than W")

    def twin(self, layer: Any) -> nn.Module:
        return Factors(layer, max(1, int(self.ratio * layer.weight.numel() / sum(layer.weight.shape))))

    def tensors(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        return {name: x.detach() for name, x in layer.named_parameters()}


class Factors(nn.Module):
    """Two linear layers in place of one: (..., inputs) -> (..., rank) -> (..., outputs)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        u_OR, s_R, v_RI = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
        root_R = s_R[:rank].sqrt()
        self.a_RI = nn.Parameter((root_R[:, None] * v_RI[:rank]).to(layer.weight.dtype))
        self.b_OR = nn.Parameter((u_OR[:, :rank] * root_R).to(layer.weight.dtype))
        self.bias = layer.bias
        self.train(layer.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.linear(x, self.a_RI), self.b_OR, self.bias)
