"""The eager backend with gradient checkpointing (Chen et al., Training Deep Nets with Sublinear Memory Cost,
arXiv 1604.06174): the backward pass computes the n x n matrices again, so none is stored between the passes."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from attention.backends import eager
from attention.backends.base import PLAIN, Kernels

# Its forward pass is eager's, and its backward pass has a forward softmax in it.
_AGAIN = {"cpu": r"^aten::_softmax$", "cuda": r"(?i)softmax(_warp_)?forward"}
KERNELS = {device: Kernels(PLAIN[device].forward, (_AGAIN[device],), PLAIN[device].never) for device in PLAIN}


class Checkpointed(eager.Eager):
    """This backend computes what eager computes, twice, in less memory."""

    name = "checkpointed"
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, **options: Any) -> torch.Tensor:
    """Computes attention as `eager.attend` does, with the same arguments."""
    return checkpoint(eager.attend, q_BHND, k_BGMD, v_BGMD, use_reentrant=False, preserve_rng_state=False, **options)


checkpointed = Checkpointed()
