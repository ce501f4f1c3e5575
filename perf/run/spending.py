"""Spending tells where a run's time went."""
from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

MEASURED = ("timing", "counting", "memory", "checks")  # the call itself runs: timed, counted, weighed, compared


class Spending:
    """Sums seconds by purpose since this was made; what no purpose claims is "the rest"."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        """Adds the seconds meanwhile to `purpose`, less those of purposes within."""
        outer, self._inner, start = self._inner, 0.0, time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + spent - self._inner
            self._inner = outer + spent

    @property
    def total(self) -> float:
        return time.monotonic() - self.started

    def line(self) -> str:
        """Writes "253 s: timing 120 s, checks 80 s, ...; 62 % of it measured"."""
        total = self.total
        parts = {**self.seconds, "the rest": total - sum(self.seconds.values())}
        text = ", ".join(f"{purpose} {seconds:.1f} s" for purpose, seconds
                         in sorted(parts.items(), key=lambda part: -part[1]) if seconds >= 0.05)
        measured = sum(self.seconds.get(purpose, 0.0) for purpose in MEASURED) / total
        return f"{total:.1f} s: {text}; {measured:.0%} of it measured"
