"""Adds attention sinks behind a kernel that has none, but returns the log-sum-exp of each row's scores."""
from __future__ import annotations

import torch


def with_sinks(out_BHND: torch.Tensor, lse_BHN: torch.Tensor, sinks_H: torch.Tensor) -> torch.Tensor:
    """Scales each row by the share e^lse / (e^lse + e^sink) that its keys keep beside the sink -> (B, H, N, D).

    A sink is a logit of a head that joins each row's softmax without a value of its own.
    """
    share = torch.sigmoid(lse_BHN - sinks_H.to(lse_BHN.dtype)[:, None])  # rounded to bf16, it would tilt whole rows
    return (out_BHND * share.unsqueeze(-1)).to(out_BHND.dtype)


def wants_gradients(*tensors: torch.Tensor) -> bool:
    """Tells whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
