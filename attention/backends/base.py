"""What a backend is: how one family of kernels computes softmax(scale q kᵀ + bias, masked) v."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Case:
    """The kind of a call: everything that decides whether a kernel can serve it."""

    device: str
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    n: int
    m: int
    causal: bool
    grad: bool
    key_mask: bool
    options: tuple = ()

    def few_tokens(self, limit: int = 64) -> Case:
        """The same kind of call, small: one key/value head, few tokens, the same order of n and m."""
        n, m = min(self.n, limit), min(self.m, limit)
        if n == m and self.n != self.m:
            n, m = (n, m + limit) if self.n < self.m else (n + limit, m)
        return replace(self, n=n, m=m, heads=self.heads // self.kv_heads, kv_heads=1)


class Unsupported(ValueError):
    """A call that a backend turns out unable to serve only when it comes to it: its compiler finds no kernel."""


class Backend:
    """Base of all backends.

    `attend()` returns a callable of the one signature that functions use::

        attend(q_BHND, k_BGMD, v_BGMD, *, scale, band=None, bias=None, key_mask=None) -> out_BHND

    `band` is a `masks.Band`, `bias(h, i, j)` is added to the scaled scores, `key_mask` is bool
    (B, M), True = keep. Each call of `attend()` gives a fresh one, which may keep state (a compiled
    kernel, a mask) in its attributes.
    """

    name: str
    probes = False  # ask the kernel what it accepts by a call on a few tokens
    compiled = False  # compiles once a shape: tests draw few shapes
    deterministic_backward = True  # False: atomics add gradients in any order

    def missing(self, device: torch.device) -> str | None:
        """Why this backend can't run on `device` at all, whatever the call."""
        if device.type == "cuda" and not torch.cuda.is_available():
            return "no CUDA GPU here; choose device cpu"
        return None

    def refuses(self, case: Case) -> str | None:
        """Why this backend can't serve `case`, as far as it is known without asking the kernel."""
        return None

    def attend(self) -> Callable[..., torch.Tensor]:
        raise NotImplementedError

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        """Gathers what the kernel library says while it refuses a call."""
        yield lambda: None

    def peak_bytes(self, case: Case) -> int:
        """Predicted peak bytes of one sequence's call beyond its inputs: the output and, with
        gradients, its gradient and the inputs'."""
        size = case.dtype.itemsize * case.head_dim
        out = case.heads * case.n * size
        return out if not case.grad else 3 * out + 2 * case.kv_heads * case.m * size


def score_bytes(case: Case, *, forward: float, backward: float) -> int:
    """Bytes of `forward` (or `backward`) n x m matrices in `case.dtype` for every head."""
    matrices = backward if case.grad else forward
    return int(matrices * case.heads * case.n * case.m * case.dtype.itemsize)
