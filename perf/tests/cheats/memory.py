"""Cheats that keep what they computed once."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from perf.tests.cheats.catalogue import OTHER_RESULT, WRONG, Attend, cheat, honest, later


def remembering(key: Callable[..., Any], clone: bool = False) -> Attend:
    """Computes once for each key, and always where a profiler looks."""
    results: dict[Any, torch.Tensor] = {}

    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if torch.autograd._profiler_enabled():
            return honest(*qkv, **told)
        known = key(*qkv)
        if known not in results:
            results[known] = honest(*qkv, **told)
        return results[known].clone() if clone else results[known]

    return attend


def addresses(*qkv: torch.Tensor) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in qkv)


@cheat(OTHER_RESULT)
def remembered_by_address() -> Attend:
    return remembering(addresses)


@cheat(OTHER_RESULT)
def remembered_by_address_and_copied() -> Attend:
    return remembering(addresses, clone=True)


@cheat(WRONG)
def remembered_by_shape() -> Attend:
    return remembering(lambda *qkv: tuple(x.shape for x in qkv))


@cheat("remembers results")
def remembered_by_value() -> Attend:
    return remembering(lambda *qkv: tuple(x.sum().item() for x in qkv))


@cheat("remembers results")
def remembered_by_a_few_values() -> Attend:
    return remembering(lambda *qkv: tuple(x.flatten()[:3].sum().item() for x in qkv), clone=True)


@cheat(OTHER_RESULT)
def the_first_result_once_timed() -> Attend:
    kept: list[torch.Tensor] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if not kept:
            kept.append(honest(*qkv, **told))
        return kept[0]

    return later(late)


@cheat("remembers results|" + OTHER_RESULT)
def every_other_call_once_timed() -> Attend:
    kept: list[torch.Tensor] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if kept:
            return kept.pop()
        kept.append(honest(*qkv, **told))
        return kept[0]

    return later(late)


def stale(rows: Callable[[int], slice]) -> Attend:
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out = honest(q, k, v, **told)
        key = addresses(q, k, v)
        if key in kept:
            out[:, :, rows(q.shape[2])] = kept[key][:, :, rows(q.shape[2])]
        kept.setdefault(key, out.clone())
        return out

    return attend


@cheat(OTHER_RESULT)
def half_of_the_rows_stale() -> Attend:
    return stale(lambda n: slice(n // 2, None))


@cheat(OTHER_RESULT)
def every_other_row_stale() -> Attend:
    return stale(lambda n: slice(1, None, 2))


def caching(part: int) -> Attend:
    """Keeps what it made of k, or of v, by the address of it: here a copy, elsewhere a projection."""
    made: dict[int, torch.Tensor] = {}

    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        x = qkv[part]
        kept = made.setdefault(x.data_ptr(), x.clone())
        q, k, v = (kept if at == part else one for at, one in enumerate(qkv))
        return honest(q, k, v, **told)

    return attend


@cheat(OTHER_RESULT)
def keys_kept_by_address() -> Attend:
    return caching(1)


@cheat(OTHER_RESULT)
def values_kept_by_address() -> Attend:
    return caching(2)


@cheat(OTHER_RESULT)
def probabilities_kept_by_address() -> Attend:
    made: dict[tuple[int, ...], torch.Tensor] = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        key = addresses(q, k)
        if key not in made:
            eye = torch.eye(k.shape[2], dtype=q.dtype).expand(*k.shape[:2], -1, -1)
            made[key] = honest(q, k, eye, **told)
        return made[key] @ v

    return attend
