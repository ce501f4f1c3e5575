"""Cheats that compute after they have returned, or when they are read."""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from perf.tests.cheats.catalogue import OTHER_RESULT, Attend, cheat, honest, later


class Lazy(torch.Tensor):
    """Computes when an operator reads it."""

    compute: Callable[[], torch.Tensor]

    @staticmethod
    def of(like: torch.Tensor, compute: Callable[[], torch.Tensor]) -> Lazy:
        made = torch.empty_like(like).as_subclass(Lazy)
        made.compute = compute
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(x: Any) -> Any:
            return x.compute() if isinstance(x, Lazy) and hasattr(x, "compute") else x

        if getattr(func, "__name__", "") in ("__get__", "__set__", "data_ptr", "as_subclass"):
            return super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(plain(x) for x in args), **(kwargs or {}))


@cheat("may compute when it is read")
def lazily_right() -> Attend:
    return later(lambda q, k, v, **told: Lazy.of(q, lambda: honest(q, k, v, **told)))


def in_a_thread(part: float) -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out, first = torch.empty_like(q), int(q.shape[1] * part)
        q, k, v = q.clone(), k.clone(), v.clone()
        if first:
            out[:, :first] = honest(q, k, v, **told)[:, :first]

        def work() -> None:
            with torch.no_grad():
                out[:, first:] = honest(q, k, v, **told)[:, first:]

        threading.Timer(0.003, work).start()
        return out

    return later(late)


@cheat(f"went on to change its result|{OTHER_RESULT}")  # a busy machine may keep the thread from it
def a_host_thread() -> Attend:
    return in_a_thread(0)


@cheat(f"went on to change its result|{OTHER_RESULT}")  # a busy machine may keep the thread from it
def a_host_thread_for_half_of_the_heads() -> Attend:
    return in_a_thread(0.5)


@cheat(OTHER_RESULT)
def finished_by_the_next_call() -> Attend:
    left: list[Callable[[], Any]] = []

    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if left:
            left.pop()()
        out = torch.empty_like(q)
        q, k, v = q.clone(), k.clone(), v.clone()
        left.append(lambda: out.copy_(honest(q, k, v, **told)))
        return out

    return later(late)
