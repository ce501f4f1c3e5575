"""The shared part of the packages of the FlashAttention authors: where they run, packed sequences, pages of a cache."""
from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch

from attention.backends.base import Backend, Case

PAGE = 256  # keys; the kernels take multiples


class FlashPackage(Backend):
    """A backend of this class is one of these packages; half precision on CUDA GPUs."""

    title: str
    modules: tuple[str, ...] = ()  # modules that must be importable
    install: str  # how to install them
    generations: tuple[int, ...] = ()  # of GPUs, the major number of the compute capability; empty: the package checks
    probes = True  # only a wheel itself can tell which head dims it was built for
    deterministic_backward = False

    def installed(self) -> bool:
        """Tells whether the package is installed, without importing it."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"{self.title} runs on CUDA GPUs only, not on {device.type}"
        if not self.installed():
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

    def attend_deterministic(self) -> Any:
        return functools.partial(self.attend(), deterministic=True)


def packed_in(visible: Any, rows: int) -> dict[str, Any]:
    """Gives the arguments for sequences packed into `rows` rows, from the mask `visible` of packed sequences.

    Raises ValueError for another mask.
    """
    if not hasattr(visible, "lengths"):
        raise ValueError("FlashAttention takes no mask but bands and packed sequences")
    starts, longest = visible.starts(rows), max(visible.lengths)
    return {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": longest, "max_seqlen_k": longest}


def apart(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Makes each key/value head, with its query heads, a sequence of its own: (B G, R, N, D), twice (B G, 1, M, D).

    So a cache whose heads lie apart, as (B, G, M, D) in memory, has pages as it lies. One with another layout is given
    back as it is.
    """
    if not (k_BGMD.is_contiguous() and v_BGMD.is_contiguous()):
        return q_BHND, k_BGMD, v_BGMD
    q = q_BHND.unflatten(1, (k_BGMD.shape[1], -1)).flatten(0, 1)
    return q, k_BGMD.flatten(0, 1).unsqueeze(1), v_BGMD.flatten(0, 1).unsqueeze(1)


def pages(k_BMGD: torch.Tensor, v_BMGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cuts a cache into pages: a table (B, pages), int32, and the pages (B x pages, PAGE, G, D) of keys and values.

    Zeros fill up the last page of a sequence.
    """
    batch, m = k_BMGD.shape[:2]
    count = -(-m // PAGE)

    def cut(cache: torch.Tensor) -> torch.Tensor:
        rest = count * PAGE - m
        whole = torch.nn.functional.pad(cache, (0, 0, 0, 0, 0, rest)) if rest else cache
        return whole.unflatten(1, (count, PAGE)).flatten(0, 1)

    table = torch.arange(batch * count, dtype=torch.int32, device=k_BMGD.device).view(batch, count)
    return table, cut(k_BMGD), cut(v_BMGD)
