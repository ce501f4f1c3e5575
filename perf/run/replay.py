"""A script plays samples that the project's own sampling took to pytest-benchmark, whose table and JSON then show
them."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Script:
    """Is a timer for pytest-benchmark: the difference of two readings is the next sample."""

    __name__ = "script"

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.now = 0.0
        self._running = False

    def __call__(self) -> float:
        if self._running:
            self.now += self.samples.pop(0)
        self._running = not self._running
        return self.now

    def play(self, samples: Sequence[float], benchmark: Any, call: Callable[[], Any]) -> None:
        """Plays one round a sample. `call` is made where pytest-benchmark makes a call of its own
        (--benchmark-cprofile)."""
        self.samples, self.now, self._running = list(samples), 0.0, False

        def target() -> None:
            if not self.samples:
                call()

        benchmark.pedantic(target, rounds=len(samples), iterations=1)
