"""The catalogue, and the moment at which a cheat begins.

A cheat is made like a backend's `attend()`: called without arguments, a maker gives what takes the place of eager's
kernel. It is right where a harness that looks at it once looks. A real one counts calls, or looks for a profiler or a
graph, to tell where it is; how many calls a measurement makes depends on the machine and its load, so here the test
tells it (`MOMENT`).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attention.backends.eager import attend as honest

__all__ = ["CHEATS", "GPU_CHEATS", "GRADIENT_CHEATS", "MOMENT", "OTHER_RESULT", "STAGES", "SWITCHED", "WRONG", "Attend",
           "cheat", "honest", "later"]

Attend = Callable[..., torch.Tensor]
Catalogue = dict[str, tuple[Callable[[], Attend], str]]  # name -> what makes it, and words that must tell it

CHEATS: Catalogue = {}
GPU_CHEATS: Catalogue = {}
GRADIENT_CHEATS: Catalogue = {}

OTHER_RESULT = "gave another result when it was timed|as it was before, when its inputs were new"
SWITCHED = "of the whole process"
WRONG = "numerically wrong"

STAGES = ("check", "plan", "timing", "proof")


class Moment:
    """Says at which stage a measurement is, and at which ones cheats cheat."""

    def __init__(self) -> None:
        self.stage, self.stages = "check", STAGES[1:]

    @property
    def right(self) -> bool:
        """Tells whether cheats cheat now."""
        return self.stage in self.stages


MOMENT = Moment()


def cheat(words: str, where: Catalogue = CHEATS) -> Callable[..., Any]:
    """Puts a maker of a cheat into the catalogue."""
    def add(make: Callable[[], Attend]) -> Callable[[], Attend]:
        where[make.__name__.replace("_", " ")] = make, words
        return make

    return add


def later(late: Attend) -> Attend:
    """Is honest until the moment is right, then something else."""
    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        return (late if MOMENT.right else honest)(*qkv, **told)

    return attend
