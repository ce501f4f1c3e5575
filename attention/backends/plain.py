"""Backends in plain PyTorch whose algorithm belongs to one function: its variant computes without a shared kernel."""
from __future__ import annotations

from collections.abc import Callable

from attention.backends.base import PLAIN, Backend


class Plain(Backend):
    """A plain backend is only a name, which says the algorithm: chunked, scan, fft."""

    kernels = PLAIN

    def __init__(self, name: str) -> None:
        self.name = name

    def attend(self) -> Callable:
        return _no_kernel


def _no_kernel(*args: object, **options: object) -> None:
    raise NotImplementedError("this backend has no kernel of its own: the function computes by itself")


chunked = Plain("chunked")  # it works on blocks of positions, one after the other or all at once
scan = Plain("scan")  # a parallel prefix scan
fft = Plain("fft")
