"""Cheats that compute less, or nothing, or write where they should read."""
from __future__ import annotations

from typing import Any

import torch

from perf.tests.cheats.catalogue import OTHER_RESULT, WRONG, Attend, cheat, honest, later


@cheat(OTHER_RESULT)
def nothing_once_timed() -> Attend:
    return later(lambda q, k, v, **told: torch.empty_like(q))


@cheat(OTHER_RESULT)
def zeros_once_timed() -> Attend:
    return later(lambda q, k, v, **told: torch.zeros_like(q))


@cheat(OTHER_RESULT)
def half_of_the_rows_and_zeros_where_the_poison_was() -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out, half = torch.zeros_like(q), q.shape[1] // 2
        out[:, :half] = honest(q, k, v, **told)[:, :half]
        return out

    return later(late)


@cheat("changed its inputs")
def inputs_edited_in_place() -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out = honest(q, k, v, **told)
        v.mul_(0.5)
        return out

    return later(late)


@cheat("changed its inputs")
def a_view_of_an_input() -> Attend:
    return later(lambda q, k, v, **told: q.copy_(honest(q, k, v, **told)).view(q.shape))


@cheat(OTHER_RESULT)
def an_input_for_a_result() -> Attend:
    return later(lambda q, k, v, **told: v.expand_as(q))


@cheat(WRONG)
def a_smaller_batch() -> Attend:
    return lambda q, k, v, **told: honest(q[:1], k[:1], v[:1], **told).expand_as(q).clone()


@cheat(OTHER_RESULT)
def a_smaller_batch_once_timed() -> Attend:
    return later(a_smaller_batch())


@cheat(WRONG)
def lower_precision() -> Attend:
    return lambda q, k, v, **told: honest(q.bfloat16(), k.bfloat16(), v.bfloat16(), **told).to(q.dtype)


@cheat(OTHER_RESULT)
def lower_precision_once_timed() -> Attend:
    return later(lower_precision())


@cheat("took .* but its FLOPs|remembers results|" + OTHER_RESULT)
def nothing_where_no_profiler_looks() -> Attend:
    empty: list[torch.Tensor] = []

    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if torch.autograd._profiler_enabled():
            return honest(q, k, v, **told)
        if not empty:
            empty.append(torch.zeros_like(q))
        return empty[0]

    return later(late)
