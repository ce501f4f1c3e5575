"""What an attention function is: its formula, its paper, what it can and can't do."""
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
    """What is computed. The oracle and the variants take what `options`, `parameters` and the flags say.

    `oracle(q, k, v, *, causal, scale, key_mask, dtype, **options)`, and `params` where there are parameters.
    `kind`: "exact" is softmax attention by another algorithm, "structured" softmax under a mask or bias,
    "approximate" another, cheaper function.
    `test_values` lists, for an option, the values that tests choose from; the first of each suits sequences of a few
    dozen keys, where a default may be too large to hide or merge anything.
    """

    name: str
    kind: str
    paper: str
    oracle: Callable[..., torch.Tensor]
    pairs: Callable[..., int] | None = None  # (n, m, causal, **options) -> visible query-key pairs of one head
    flops: Callable[..., int] | None = None  # (n, m, head_dim, causal, **options) -> of one head's forward pass
    cost: str = "n²"  # how time and memory grow, for the README's table
    options: Mapping[str, Any] = field(default_factory=dict)  # names and defaults
    test_values: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # of options, see below
    validate: Callable[..., None] | None = None  # (**options), raises ValueError for impossible ones
    limits: Callable[[Case], str | None] | None = None  # why a kind of call is impossible, in one line
    few: Callable[..., dict[str, Any]] | None = None  # (options, m) -> options that suit a probe's few keys
    parameters: Callable[..., Parameters] | None = None  # see `initial`
    causal: bool = True  # has a causal form
    full: bool = True  # has a form that is not causal
    cross: bool = True  # takes as many queries as it likes: n != m
    grouped: bool = True  # takes fewer key/value heads than query heads
    padding: bool = True  # takes a key mask
    values: bool = False  # takes values of another width than the keys, and gives outputs of that
    apart: bool = True  # what one head gives, no other key/value head changes
    convex: bool = True  # each output is a weighted mean of values
    flash: bool = True  # softmax(...) v, whose backward may work with the output that it kept
    queries: int | None = None  # it is for so many queries; None: as many as keys
    default: bool = True  # in the default grid; else only by name or under `all`
    core: bool = False  # measured and tested in full: every phase, mask and head_dim; of other functions a few cells

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not (self.pairs or self.flops) or not self.paper:
            raise ValueError(f"function {self.name!r} needs paper=, pairs= or flops=, and kind= one of "
                             f"{', '.join(KINDS)}")
        for option in self.test_values:
            if option not in self.options:
                raise ValueError(f"function {self.name!r}: test_values names {option!r}, which is no option of it")

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` over the defaults; ValueError for an unknown or impossible one."""
        for option in options:
            if option not in self.options:
                allowed = ", ".join(self.options) or "none"
                raise ValueError(f"{self.name}: unknown option {option!r}; its options: {allowed}")
        full = {**self.options, **options}
        if self.validate:
            self.validate(**full)
        return full

    def refuses(self, case: Case) -> str | None:
        """Why the function itself, on any backend, can't be what `case` asks for."""
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
        """The parameters a variant starts with, in float64 on the CPU, the same every time.

        A `torch.nn.Parameter` is learned, a plain tensor is fixed (random features, rotations).
        Raises ValueError, e.g. where `seq_len` is needed and not given.
        """
        if self.parameters is None:
            return {}
        return self.parameters(heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq_len=seq_len, causal=causal,
                               **options)

    def forward_flops(self, n: int, m: int, head_dim: int, causal: bool, **options: Any) -> int:
        """Floating-point operations of one head's forward pass: 4 D a visible pair, or what the function says."""
        if self.flops:
            return self.flops(n, m, head_dim, causal, **options)
        assert self.pairs is not None
        return 4 * head_dim * self.pairs(n, m, causal, **options)
