"""Starts pairs, where it costs nothing one ahead: its processes import torch, and the compiler where an earlier pair
needed it, while the pair before takes turns.

    with Launcher(base_folder, head_folder, "cuda") as launcher:
        with launcher.pair(head_first=False) as pair: ...

Only for a GPU, and with cores to spare: an import keeps a core busy for seconds. A process that waits has no context on
the GPU yet. On a CPU it would be company for the pair that is timed.
"""
from __future__ import annotations

import os
from pathlib import Path

from perf.compare.pair import Pair

CORES = 6  # two processes that measure, two that import, and what else runs


class Launcher:
    """Pairs of two folders on a device; `ahead` says whether one waits, by default where it costs nothing."""

    def __init__(self, base_folder: Path, head_folder: Path, device: str, *, ahead: bool | None = None) -> None:
        self.base_folder, self.head_folder, self.device = base_folder, head_folder, device
        self.ahead = device != "cpu" and (os.cpu_count() or 1) >= CORES if ahead is None else ahead
        self._waiting: Pair | None = None
        self._last: Pair | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        if self._waiting:
            self._waiting.kill()

    def pair(self, *, head_first: bool) -> Pair:
        """Two fresh workers; the next two are started at once. Raises OSError where no process can be."""
        made, self._waiting = self._waiting or self._started(), None
        made.head_first = head_first
        if self.ahead:
            try:
                self._waiting = self._started()
            except BaseException:
                made.kill()
                raise
        self._last = made
        return made

    def _started(self) -> Pair:
        return Pair(self.base_folder, self.head_folder, self.device, imports=self._last.imports if self._last else ())
