"""Cheats that move a switch of the whole process."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from perf.tests.cheats.catalogue import SWITCHED, WRONG, Attend, cheat, honest


def switching(switch: Callable[[], Any]) -> Attend:
    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        switch()
        return honest(*qkv, **told)

    return attend


@cheat(SWITCHED)
def the_number_of_threads() -> Attend:
    return switching(lambda: torch.set_num_threads(3))


@cheat(f"{SWITCHED}|{WRONG}")
def fp32_products_in_bf16() -> Attend:
    backends: Any = torch.backends
    return switching(lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"))


@cheat(SWITCHED)
def fp32_products_in_tf32() -> Attend:
    return switching(lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"))


@cheat(SWITCHED)
def small_numbers_to_zero() -> Attend:
    return switching(lambda: torch.set_flush_denormal(True))


@cheat(SWITCHED)
def the_default_dtype() -> Attend:
    return switching(lambda: torch.set_default_dtype(torch.float16))


@cheat(SWITCHED)
def deterministic_algorithms() -> Attend:
    return switching(lambda: torch.use_deterministic_algorithms(True))


CLOCK = time.perf_counter


CLOCK = time.perf_counter


@cheat(SWITCHED)
def a_slow_clock() -> Attend:
    return switching(lambda: setattr(time, "perf_counter", lambda: CLOCK() / 10))
