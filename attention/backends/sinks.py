"""Gives attention sinks their gradient, beside a kernel that gives them none (arXiv 2508.10925, 2309.17453)."""
from __future__ import annotations

from typing import Any

import torch

from attention.backends.compiling import compiled_on_gpu


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
        return grad_BHND, None, logit_gradient(out, grad_BHND, lse.unsqueeze(-1), sinks_H)


@compiled_on_gpu
def logit_gradient(out_BHND: torch.Tensor, grad_BHND: torch.Tensor, lse_BHN1: torch.Tensor,
                   sinks_H: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of the logits (H,) in the dtype of `lse_BHN1`."""
    share = (sinks_H.to(lse_BHN1.dtype)[:, None, None] - lse_BHN1).exp()
    along = (grad_BHND.to(lse_BHN1.dtype) * out_BHND.to(lse_BHN1.dtype)).sum(-1, keepdim=True)
    return -(share * along).sum((0, 2, 3)).to(sinks_H.dtype)
