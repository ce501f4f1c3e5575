"""Mutants are variants broken on purpose: how many of them the rule refuses measures how good it is (`score`).

Nothing says which functions a mutant is for: one that a module refuses, or that changes nothing of what it gives, does
not apply there.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from attention.module import Attention
from attention.testing.faults import (
    BACKWARD,
    PRODUCTS,
    SOFTMAX,
    TILE,
    Altered,
    Fault,
    Gradient,
    around,
    doubled_tail,
    edge,
    exchanged,
    first_of_group,
    flag,
    gradient,
    having,
    head_apart,
    ignoring,
    in_bfloat16,
    in_float8,
    interleaved,
    late,
    late_rows,
    lost_value,
    next_head,
    next_key,
    no_rescale,
    no_tail,
    on_inputs,
    on_output,
    one_product,
    replaced,
    scaled,
    summed_narrowly,
    to_first_key,
    told,
    unseen,
    without,
)


@dataclass(frozen=True)
class Mutant:
    """Is a fault and its name. `change(module)` breaks a module, and raises ValueError where it has no such part;
    `altered()` is entered around the call and its backward pass. With `grad` the fault is one of gradients."""

    name: str
    only: torch.dtype | None = None  # it is a fault in this dtype alone
    change: Fault = lambda module: None
    altered: Callable[[], AbstractContextManager] = nullcontext
    grad: bool = False


def catalogue(module: Attention) -> Iterator[Mutant]:
    """Yields every mutant, and those of the options that `module` has."""
    yield from FORWARD
    yield from OPERATORS
    yield from of_options(module)
    yield from GRADIENTS


def of_options(module: Attention) -> Iterator[Mutant]:
    """Yields mutants with each option one less, one more, twice, or another of its choices."""
    described = module.variant.function
    for name, value in module.options.items():
        others: list[Any] = [x for x in described.test_values.get(name, ()) if x is not None]
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int | float):
            others += [value - 1, value + 1, 2 * value] if isinstance(value, int) else [1.05 * value, 2 * value]
        for other in dict.fromkeys(others):
            if other != value:
                yield Mutant(f"{name} {other} for {value}", change=_option(name, other))


def _option(name: str, value: Any) -> Fault:
    def change(module: Attention) -> None:
        module.options = module.variant.function.complete({**module.options, name: value})

    return change


def operators(name: str, which: tuple[Any, ...], alter: Callable[..., torch.Tensor], **more: Any) -> Mutant:
    return Mutant(name, altered=lambda: Altered(which, alter), **more)


FORWARD = (
    Mutant("scale 0.5 % larger", change=scaled(1.005)),
    Mutant("scale 0.5 % smaller", change=scaled(0.995)),
    Mutant("no scale", change=scaled(None)),
    Mutant("queries of one head 10 % longer", change=on_inputs(head_apart)),
    Mutant("output 2 % larger", change=on_output(lambda out: 1.02 * out)),
    Mutant("output 1 % smaller", change=on_output(lambda out: 0.99 * out)),
    Mutant("batch 0 repeated", change=on_output(lambda out: out[:1].expand_as(out))),
    Mutant("output heads rotated", change=on_output(lambda out: out.roll(1, 1))),
    Mutant("key heads rotated", change=on_inputs(lambda q, k, v: (q, k.roll(1, 1), v.roll(1, 1)))),
    Mutant("query heads rotated", change=on_inputs(lambda q, k, v: (q.roll(1, 1), k, v))),
    Mutant("groups of heads interleaved", change=around(interleaved)),
    Mutant("stale keys", change=on_inputs(lambda q, k, v: (q, k.roll(1, 2), v))),
    Mutant("stale values", change=on_inputs(lambda q, k, v: (q, k, v.roll(1, 2)))),
    Mutant("keys and values one position late", change=on_inputs(late)),
    Mutant("a row left out", change=on_output(lambda out: replaced(out, out.shape[2] // 2, 0.0))),
    Mutant("last row empty", change=on_output(lambda out: replaced(out, -1, 0.0))),
    Mutant("last rows one late", change=on_output(late_rows)),
    Mutant("rows beyond whole tiles empty", change=on_output(no_tail)),
    Mutant("last channel empty", change=on_output(lambda out: replaced(out, -1, 0.0, dim=3))),
    Mutant("first key unseen", change=unseen(0)),
    Mutant("middle key unseen", change=unseen(-2)),
    Mutant("last key unseen", change=unseen(-1)),
    Mutant("last key of a tile unseen", change=unseen(TILE - 1)),
    Mutant("first value lost", change=lost_value(0)),
    Mutant("last value lost", change=lost_value(-1)),
    Mutant("a value of the middle lost", change=lost_value(-2)),
    Mutant("padding ignored", change=around(lambda forward, q, k, v, key_mask_BM=None: forward(q, k, v))),
    Mutant("mask dropped", change=flag(causal=False)),
    Mutant("causal where nothing is hidden", change=flag(causal=True)),
    Mutant("mask one late", change=edge(right=1)),
    Mutant("mask one early", change=edge(right=-1)),
    Mutant("window one wider", change=edge(left=1)),
    Mutant("window one narrower", change=edge(left=-1)),
    Mutant("aligned to the first key", change=told("band", to_first_key)),
    Mutant("pattern left out", change=without("visible")),
    Mutant("pattern one key off", change=told("visible", next_key)),
    Mutant("bias left out", change=without("bias")),
    Mutant("bias of the next head", change=told("bias", next_head)),
    Mutant("bias 2 % larger", change=told("bias", lambda bias, q, k: lambda h, i, j: 1.02 * bias(h, i, j))),
    Mutant("bias grows with distance", change=told("bias", lambda bias, q, k: lambda h, i, j: -bias(h, i, j))),
    Mutant("softcap left out", change=without("softcap")),
    Mutant("softcap 1 % larger", change=told("softcap", lambda cap, q, k: 1.01 * cap)),
    Mutant("sink left out", change=without("sinks_H")),
    Mutant("sink of the next head", change=told("sinks_H", lambda sinks, q, k: sinks.roll(1))),
    Mutant("learned parameters ignored", change=ignoring),
    Mutant("learned parameters one off", change=having(lambda p: p.roll(1, -1))),
    Mutant("learned parameters of the next head", change=having(lambda p: p.roll(1, 0))),
    Mutant("learned parameters 5 % larger", change=having(lambda p: 1.05 * p)),
    Mutant("drawn parameters one off", change=having(lambda p: p.roll(1, 0), learned=False)),
    Mutant("half of the drawn parameters", change=having(lambda p: p[:len(p) // 2], learned=False)),
)
OPERATORS = (
    operators("probabilities in float8", SOFTMAX, in_float8),
    operators("a rescale forgotten", SOFTMAX, no_rescale),
    operators("products in bfloat16", PRODUCTS, in_bfloat16, only=torch.float32),
    operators("sums in bfloat16", PRODUCTS, summed_narrowly(torch.bfloat16)),
)
GRADIENTS = (
    *(Mutant(f"no gradient of {x}", change=gradient(x, torch.zeros_like), grad=True) for x in "qkv"),
    *(Mutant(f"gradient of {x} 2 % larger", change=gradient(x, lambda grad: 1.02 * grad), grad=True) for x in "qkv"),
    *(Mutant(f"gradient of {x} doubled in the last rows", change=gradient(x, doubled_tail), grad=True) for x in "qkv"),
    *(Mutant(f"gradient of {x} without the last head", change=gradient(x, first_of_group), grad=True) for x in "qkv"),
    Mutant("gradients of k and v exchanged", change=on_inputs(lambda q, k, v: (q, *exchanged(k, v))), grad=True),
    Mutant("no gradient of learned parameters", change=having(lambda p: p.detach()), grad=True),
    Mutant("gradient of learned parameters 2 % larger",
           change=having(lambda p: Gradient.apply(p, lambda grad: 1.02 * grad)), grad=True),
    operators("backward without its second product", BACKWARD, one_product, grad=True),
)
