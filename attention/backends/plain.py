"""Algorithms in plain PyTorch that are a function's own: its variant computes, and needs no shared kernel."""
from __future__ import annotations

from collections.abc import Callable

from attention.backends.base import PLAIN, Backend


class Plain(Backend):
    """A backend that is a name only: chunked, scan, fft ... The name says the algorithm."""

    kernels = PLAIN

    def __init__(self, name: str) -> None:
        self.name = name

    def attend(self) -> Callable:
        return _none


def _none(*args: object, **told: object) -> None:
    raise NotImplementedError("this backend has no kernel of its own: the function computes by itself")


chunked = Plain("chunked")  # blocks of positions, one after the other, or all at once by blocks
scan = Plain("scan")  # a parallel prefix scan
fft = Plain("fft")
