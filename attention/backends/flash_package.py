"""What the packages of the FlashAttention authors share: where they run, and how they are called."""
from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from attention.backends.base import Backend, Case


class FlashPackage(Backend):
    """A backend that is one of these packages; half precision on CUDA GPUs."""

    title: str
    modules: tuple[str, ...]  # what must be importable
    install: str  # what to do where it is not
    generations: tuple[int, ...] = ()  # of GPUs, by the major number of their compute capability; none: it says itself
    probes = True  # which head dims a wheel holds is the wheel's own knowledge
    deterministic_backward = False

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"{self.title} runs on CUDA GPUs only, not on {device.type}"
        if any(importlib.util.find_spec(module) is None for module in self.modules):
            return f"{self.title} is not installed; {self.install}"
        reason = super().missing(device)
        if reason is None and self.generations:
            major, minor = torch.cuda.get_device_capability(device)
            if major not in self.generations:
                needed = " or ".join(f"{x}.x" for x in self.generations)
                reason = f"{self.title} needs a GPU of compute capability {needed}, this one has {major}.{minor}"
        return reason

    def refuses(self, case: Case) -> str | None:
        if case.key_mask:
            return f"{self.title} takes no padding mask; use a backend that does, or pass sequences of one length"
        if not case.causal and "window" in dict(case.options) and case.n > case.m:
            # Seen with flash-attn 2.8.3 on an H200: n = 200, m = 1, window 16 gives 13.7 where 0 belongs.
            return f"{self.title} is wrong in rows that see no key, as a window has them when queries outnumber keys"
        return None

    def scatters(self, case: Case) -> str | None:
        return None  # its backward pass has a deterministic form

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        return functools.partial(self.attend(), deterministic=True)


def call(dense: Callable, packed: Callable, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor,
         visible: Any, **told: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Calls a package's function of (B, N, H, D), or its function of packed sequences, (B N, H, D), where `visible`
    has `lengths` -> out_BHND and, if it gives one, its log-sum-exp.

    Raises ValueError for another `visible`.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BHND, k_BGMD, v_BGMD))
    if visible is None:
        found = dense(q, k, v, **told)
    elif hasattr(visible, "lengths"):
        starts, longest = visible.starts(len(q)), max(visible.lengths)
        found = packed(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), cu_seqlens_q=starts, cu_seqlens_k=starts,
                       max_seqlen_q=longest, max_seqlen_k=longest, **told)
    else:
        raise ValueError("FlashAttention takes no mask but bands and packed sequences")
    out, lse = found[:2] if isinstance(found, tuple) else (found, None)
    return out.view(*q.shape[:3], -1).transpose(1, 2), lse
