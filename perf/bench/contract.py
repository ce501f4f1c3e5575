"""The contract between what makes a workload ready and what measures it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from attention.testing import Report


@dataclass(frozen=True)
class Prepared:
    """Is a workload, ready: `call()` is what is timed, `check()` says whether it is right by what `reference()` worked
    out before.

    `renew()` writes new values into what the call reads; `trial()` knows the exact result of some other values.
    """

    call: Callable[[], Any]
    check: Callable[[], Report]
    reference: Callable[[], Any]
    kept: Callable[[], int]  # bytes held between calls that are the variant's: a dense mask
    renew: Callable[[], None]
    trial: Callable[[], Trial]


class Trial(Protocol):
    """Writes its values into what the call reads, `read`, and judges a result of the call on them."""

    @property
    def read(self) -> Sequence[torch.Tensor]: ...

    def write(self) -> None: ...

    def judge(self, result: Any) -> Report: ...
