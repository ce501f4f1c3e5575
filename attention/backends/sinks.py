"""Attention sinks from a kernel that knows none but gives the log-sum-exp of each row's scores."""
from __future__ import annotations

import torch


def with_sinks(out_BHND: torch.Tensor, lse_BHN: torch.Tensor, sinks_H: torch.Tensor) -> torch.Tensor:
    """What is left to the keys when a logit without a value joins each row's softmax: e^lse / (e^lse + e^sink)."""
    share = torch.sigmoid(lse_BHN - sinks_H.to(lse_BHN.dtype)[:, None])
    return out_BHND * share.unsqueeze(-1).to(out_BHND.dtype)


def wants_gradients(*tensors: torch.Tensor) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
