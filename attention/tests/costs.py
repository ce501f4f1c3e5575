"""Counts the cost of a call: the FLOPs of its matrix products and the peak bytes of its tensors."""
from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def flops(call: Callable[[], Any]) -> int:
    """Counts the FLOPs of the matrix products in `call`; FFTs, cumulative sums and sorts count as none."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_bytes(call: Callable[[], Any]) -> int:
    """Counts the most bytes that are alive at one time, of storages that operators in `call` make."""
    with _Storages() as storages:
        result = call()
    del result
    return storages.peak


def exponent(cost: Callable[[int], int], lengths: Sequence[int] = (512, 1024, 2048, 4096)) -> float:
    """Computes the slope of log cost over log n between the first and the last length."""
    first, last = lengths[0], lengths[-1]
    return math.log(cost(last) / cost(first)) / math.log(last / first)


class _Storages(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in inputs:
                self._follow(x.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)
