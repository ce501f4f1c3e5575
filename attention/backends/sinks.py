"""Gives attention sinks their gradient, beside a kernel that gives them none (arXiv 2508.10925, 2309.17453)."""
from __future__ import annotations

from typing import Any

import torch


class SinksGradient(torch.autograd.Function):
    """Passes an output (B, H, N, D) on that was computed with sinks (H,), and gives the sinks their gradient (H,).

    A sink takes the share p = e^(sink - lse) of each row, lse (B, H, N) being the log-sum-exp of its scores and the
    sink. It has no value, so that its logit's gradient is the sum over rows of -p <dO, O>.
    """

    @staticmethod
    def forward(ctx: Any, out_BHND: torch.Tensor, lse_BHN: torch.Tensor, sinks_H: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(out_BHND, lse_BHN, sinks_H)
        return out_BHND.view_as(out_BHND)

    @staticmethod
    def backward(ctx: Any, grad_BHND: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        out, lse, sinks_H = ctx.saved_tensors
        share = (sinks_H.to(lse.dtype)[:, None] - lse).exp()
        along = (grad_BHND.to(lse.dtype) * out.to(lse.dtype)).sum(-1)
        return grad_BHND, None, -(share * along).sum((0, 2)).to(sinks_H.dtype)
