"""`Function` describes an attention function: its formula, its paper, what it can and can't do."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from attention.backends.base import Case

KINDS = ("exact", "structured", "approximate")

Parameters = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Function:
    """An attention function says what is computed; a backend says how.

    `oracle(q, k, v, *, causal, scale, key_mask, dtype, **options)` is the formula; it also takes `params` where the
    function has parameters. The flags say which calls the function has a meaning for.
    `kind` is "exact" (softmax attention by another algorithm), "structured" (softmax under a mask or a bias) or
    "approximate" (another, cheaper function).
    `test_values` lists, for an option, the values that tests choose from. The first one of each suits sequences of a
    few dozen keys, where a default may be too large to hide or merge anything.

    Raises ValueError for an unknown kind, no paper, no `pairs` and no `flops`, or test values of an unknown option.
    """

    name: str
    kind: str
    paper: str
    oracle: Callable[..., torch.Tensor]
    pairs: Callable[..., int] | None = None  # (n, m, causal, **options) -> visible query-key pairs of one head
    flops: Callable[..., int] | None = None  # (n, m, head_dim, causal, **options) -> FLOPs of one head's forward pass
    cost: str = "n²"  # how time and memory grow, for the README's table
    options: Mapping[str, Any] = field(default_factory=dict)  # names and defaults
    test_values: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # for options, see above
    validate: Callable[..., None] | None = None  # (**options), raises ValueError for impossible ones
    limits: Callable[[Case], str | None] | None = None  # why a kind of call is impossible, in one line
    few: Callable[..., dict[str, Any]] | None = None  # (options, m) -> options that suit a probe's few keys
    parameters: Callable[..., Parameters] | None = None  # see `initial`
    undecided: Callable[..., torch.Tensor] | None = None  # (q, k, causal, ...) -> bool, the rows that rounding decides
    causal: bool = True  # it has a causal form
    full: bool = True  # it has a form that is not causal
    cross: bool = True  # it takes another number of queries than keys
    grouped: bool = True  # it takes fewer key/value heads than query heads
    padding: bool = True  # it takes a key mask
    values: bool = False  # it takes values of another width than the keys; the output then has that width
    apart: bool = True  # the output of a head depends on no other key/value head
    static_cache: bool = False  # hidden keys behind the query change nothing: no position counts from the last key
    skips: bool = False  # a backend may leave out pairs that weigh nothing: their FLOPs set no least time
    convex: bool = True  # each output is a weighted mean of values
    flash: bool = True  # it is softmax(...) v, whose backward pass may use the stored output
    queries: int | None = None  # the one number of queries it is for; None: any
    default: bool = True  # it is in the default grid; otherwise it is measured only by name or under `all`
    core: bool = False  # it is measured and tested in every phase, mask and head_dim; other functions in a few cells

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not (self.pairs or self.flops) or not self.paper:
            raise ValueError(f"function {self.name!r} needs paper=, pairs= or flops=, and kind= one of "
                             f"{', '.join(KINDS)}")
        for option in self.test_values:
            if option not in self.options:
                raise ValueError(f"function {self.name!r}: test_values names {option!r}, which is no option of it")

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Completes `options` with the defaults. Raises ValueError for an unknown or impossible option."""
        for option in options:
            if option not in self.options:
                allowed = ", ".join(self.options) or "none"
                raise ValueError(f"{self.name}: unknown option {option!r}; its options: {allowed}")
        full = {**self.options, **options}
        if self.validate:
            self.validate(**full)
        return full

    def refuses(self, case: Case) -> str | None:
        """Gives the reason, in one line, why no backend can serve `case`: the function has no such form. Else None."""
        if case.causal and not self.causal:
            return "it has no causal form; pass causal=False"
        if not case.causal and not self.full:
            return "it is causal by its nature; pass causal=True"
        if case.n != case.m and not self.cross:
            return f"it attends within one sequence: n={case.n} queries on m={case.m} keys; pass as many of both"
        if case.heads != case.kv_heads and not self.grouped:
            return f"it has no grouped heads: kv_heads={case.kv_heads} must equal heads={case.heads}"
        if case.key_mask and not self.padding:
            return "it takes no padding mask; pass sequences of one length"
        if case.values != case.head_dim and not self.values:
            return f"it takes values as wide as keys: value_dim={case.values} must equal head_dim={case.head_dim}"
        return self.limits(case) if self.limits else None

    def initial(self, *, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool = False,
                **options: Any) -> Parameters:
        """Builds the parameters that a variant starts with, in float64 on the CPU, the same every time.

        A `torch.nn.Parameter` is learned, a plain tensor is constant (random features, rotations).
        Raises ValueError for sizes that can't be, for example where the function needs `seq_len` and it is None.
        """
        if self.parameters is None:
            return {}
        return self.parameters(heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq_len=seq_len, causal=causal,
                               **options)

    def forward_flops(self, n: int, m: int, head_dim: int, causal: bool, **options: Any) -> int:
        """Counts the FLOPs of one head's forward pass: `flops` if the function has it, else 4 D per visible pair."""
        if self.flops:
            return self.flops(n, m, head_dim, causal, **options)
        assert self.pairs is not None
        return 4 * head_dim * self.pairs(n, m, causal, **options)


def require_whole(function: str, least: int = 1, **options: Any) -> None:
    """Raises ValueError, which names function and option, for an option that is no whole number >= `least`."""
    for option, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{function}: {option}={value!r} must be a whole number >= {least}")
