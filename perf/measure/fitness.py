"""The machine's fitness is watched beside a timing, and an unfit measurement is made again.

    watch.begin(); ... watch.sample() between rounds ...; states = watch.end()
    unfit(states)    # one line, or None
    summary(states)  # what evidence keeps

The machine is only watched: neither clocks nor power are ever changed.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from perf.measure.host import HostReader
from perf.measure.nvml import Gpu, Reading, Unwatched
from perf.measure.state import State, summary
from perf.measure.unfit import unfit

EVERY = 0.01  # seconds between two looks

__all__ = ["Patience", "State", "Watch", "summary", "unfit"]


class Watch:
    """Looks at the machine when told to, in the caller's thread: on a GPU while it works through queued rounds,
    on the CPU between rounds. There is no thread that could disturb what is timed.

    `unwatched` says in one line why a GPU can't be read (no nvidia-ml-py, no driver); its host still is.
    A look within `EVERY` seconds of the last one is left out. Making a Watch touches no GPU.
    """

    def __init__(self, device: torch.device, read: Callable[[bool], Reading] | None = None) -> None:
        self.device = device
        self.unwatched: str | None = None
        self._read = read

    def begin(self) -> None:
        """Forgets what was seen before."""
        if self._read is None and self.unwatched is None and self.device.type == "cuda":
            try:
                self._read = Gpu(self.device).read
            except Unwatched as reason:
                self.unwatched = str(reason)
        self._states = [State(self.device.type, 0.0, gpu=self._read(True), busy=False)] if self._read else []
        self._host = HostReader()
        self._started = time.monotonic()
        self._due = 0.0

    def sample(self) -> None:
        """Looks at the GPU's clocks, or at the CPU's where it is the CPU that is timed."""
        seconds = time.monotonic() - self._started
        if seconds < self._due:
            return
        self._due = seconds + EVERY
        if self._read:
            self._states.append(State(self.device.type, seconds, gpu=self._read(False)))
        elif self.device.type == "cpu":
            self._host.sample()

    def end(self) -> tuple[State, ...]:
        """Gives all states since the beginning, and the host over all of them."""
        last = State(self.device.type, time.monotonic() - self._started, gpu=self._read(True) if self._read else None,
                     host=self._host.read(), busy=False, unwatched=self.unwatched)
        return *self._states, last


@dataclass
class Patience:
    """Decides whether an unfit measurement is made again, and when a session gives up.

    `retries` a workload and `most` a session; after `stop` workloads that stayed unfit, where none ever was
    fit, `hopeless` says so in one line. `pause` seconds before a retry let a disturbance end, or a GPU cool.
    """

    retries: int = 2
    most: int = 60
    stop: int = 5
    pause: float = 0.5
    spent: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    ever_fit: bool = field(default=False, init=False)
    reason: str | None = field(default=None, init=False)

    def again(self, reason: str | None, attempt: int) -> bool:
        """Decides whether to measure again: attempt `attempt`, from 0, was unfit for `reason` (None: it was fit)."""
        if reason is None:
            self.ever_fit = True
            return False
        if attempt < self.retries and self.spent < self.most:
            self.spent += 1
            return True
        self.invalid += 1
        self.reason = reason
        return False

    @property
    def hopeless(self) -> str | None:
        if self.ever_fit or self.invalid < self.stop:
            return None
        return (f"this machine was unfit for each of the first {self.invalid} workloads, so the others are not tried: "
                f"{self.reason}")
