"""Mamba, a state-space model whose step sizes and projections depend on what it reads (Gu and Dao, arXiv 2312.00752,
algorithm 2), here with an inner width of F; and the block of S-Mamba, which reads both ways (Wang et al., arXiv
2403.11144).

Shape suffixes: B batch, N tokens, F width, S states of each channel.
"""
from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

STATES, KERNEL = 16, 2  # the numbers that a channel remembers; the tokens of the convolution
FASTEST, SLOWEST = 1e-1, 1e-3  # step sizes at the start


class Mamba(nn.Module):
    """A Mamba layer (B, N, F) -> (B, N, F); a token reads those before it. Weights are named as transformers' are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rank = math.ceil(width / 16)
        self.in_proj, self.out_proj = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, width, bias=False)
        self.conv1d = nn.Conv1d(width, width, KERNEL, groups=width, padding=KERNEL - 1)
        self.x_proj, self.dt_proj = nn.Linear(width, self.rank + 2 * STATES, bias=False), nn.Linear(self.rank, width)
        self.A_log = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        step_F = SLOWEST * (FASTEST / SLOWEST) ** torch.rand(width)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step_F + torch.log(-torch.expm1(-step_F)))  # softplus gives the step

    def forward(self, x_BNF: torch.Tensor) -> torch.Tensor:
        """Computes the layer token by token: it is meant for few tokens."""
        x, gate = self.in_proj(x_BNF).chunk(2, -1)
        x = functional.silu(self.conv1d(x.mT)[..., :x.shape[1]].mT)
        step, enters_BNS, leaves_BNS = self.x_proj(x).split((self.rank, STATES, STATES), -1)
        step = functional.softplus(self.dt_proj(step)).unsqueeze(-1)
        decay_BNFS = torch.exp(-step * self.A_log.exp())
        added_BNFS = step * x.unsqueeze(-1) * enters_BNS.unsqueeze(2)
        state, states = torch.zeros_like(added_BNFS[:, 0]), []
        for decay, added in zip(decay_BNFS.unbind(1), added_BNFS.unbind(1), strict=True):
            state = decay * state + added
            states.append(state)
        out = (torch.stack(states, 1) * leaves_BNS.unsqueeze(2)).sum(-1) + self.D * x
        return self.out_proj(out * functional.silu(gate))


class BothWays(nn.Module):
    """Adds one Mamba that reads the tokens in their order and one that reads them in the reverse; it has the place and
    the signature of an attention layer of transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.onward, self.back = Mamba(width), Mamba(width)

    def forward(self, hidden_states: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, None]:
        """Computes both, (B, N, F)."""
        return self.onward(hidden_states) + self.back(hidden_states.flip(1)).flip(1), None
