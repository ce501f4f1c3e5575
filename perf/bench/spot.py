"""The timing itself is looked at: some rounds have the trial's values, and what such a round left is judged later.

Which rounds these are is drawn, so that a call which computes where it is checked and not where it is timed is seen.
Nothing is called once more, and between the clock's two readings nothing is done but to hold the result.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from perf.bench.contract import Trial
from perf.measure.counters import tensors


class Spot:
    """Stands between a clock and a workload: the clock calls `call`, and `renew` before each round.

    `seen` is a copy of what the last round with the trial's values returned, None before there is one, and `strange`
    says what was no plain tensor in it.
    """

    def __init__(self, call: Callable[[], Any], renew: Callable[[], None], trial: Trial | None) -> None:
        """Looks at nothing without a `trial`."""
        self._call, self._renew, self._trial = call, renew, trial
        self._left: Any = None
        self._rounds, self._next = 0, 0  # 0: it has not begun
        self._due = False
        self.seen: Any = None
        self.strange: str | None = None

    def call(self) -> Any:
        """Makes the call; a graph of it keeps the memory of the one result that was captured."""
        self._left = None  # its memory is free for the next one, as where nobody holds a result
        self._left = self._call()
        return self._left

    def begin(self) -> None:
        """Says that from now on each `renew` stands before a round."""
        self._rounds = 0
        self._next = random.randint(2, 3) if self._trial else 0  # a result of the first, which may be kept, is wrong

    def renew(self) -> None:
        """Writes new values, or the trial's."""
        self.look()
        self._rounds += 1
        if self._trial is None or not self._next or self._rounds < self._next:
            self._renew()
            return
        self._trial.write()
        self._due, self._next = True, self._rounds + random.randint(1, 2 * self._rounds)

    def look(self) -> None:
        """Copies what the round before has left, if that had the trial's values."""
        if self._due:
            self._due = False
            self.strange = self.strange or strange(self._left)
            self.seen = None if self.strange else copy(self._left)


def strange(result: Any) -> str | None:
    """Says what is returned where plain tensors should be; None where they are."""
    if next(tensors(result), None) is None:
        return f"returned no tensor but {type(result).__name__}"
    for x in tensors(result):
        if type(x) not in (torch.Tensor, torch.nn.Parameter):
            return f"returned a {type(x).__name__}, which may compute when it is read; return a torch.Tensor"
    return None


def copy(result: Any) -> Any:
    """Copies the result as it is now, in the call's own stream."""
    if isinstance(result, torch.Tensor):
        return result.detach().clone()
    if isinstance(result, list | tuple):
        return [None if x is None else copy(x) for x in result]
    return [copy(x) for x in tensors(result)]
