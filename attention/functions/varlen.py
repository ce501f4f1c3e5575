"""Varlen is softmax attention on a batch without padding: sequences are packed one after the other, and each attends
within itself (Zhai et al., ByteTransformer, arXiv 2210.03052).

`lengths` are the lengths of the sequences along n. They are the same in every row of the batch and sum to n. By default
each takes half of the rest, rounded up: n/2, n/4, n/8, ..., 1, as uneven as real batches.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from attention import masks
from attention.backends.base import Case
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.nested import nested
from attention.backends.sdpa import sdpa
from attention.reference import softmax_attention
from attention.registry import register

Lengths = tuple[int, ...]


def halves(n: int) -> Lengths:
    """Splits n into lengths that are each half of the rest, rounded up: 10 gives 5, 3, 1, 1."""
    lengths = []
    while n:
        lengths.append(-(-n // 2))
        n //= 2
    return tuple(lengths)


class Packed:
    """The mask `visible(h, i, j)`: query i and key j are in the same sequence.

    A kernel for packed sequences recognises the mask by its `lengths` and takes `starts`.
    """

    by_head = False

    def __init__(self, lengths: Lengths, device: torch.device) -> None:
        self.lengths = lengths
        each = torch.tensor(lengths, device=device)
        self.sequence_N = torch.repeat_interleave(torch.arange(len(lengths), device=device), each,
                                                  output_size=sum(lengths))
        self.ends = each.cumsum(0)
        self._starts: dict[int, torch.Tensor] = {}

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return self.sequence_N[i] == self.sequence_N[j]

    def starts(self, batch: int) -> torch.Tensor:
        """Gives the starts of the sequences of `batch` rows, laid end to end, and the end of the last: int32."""
        if batch not in self._starts:
            rows = torch.arange(batch, device=self.ends.device)[:, None] * sum(self.lengths)
            self._starts[batch] = torch.nn.functional.pad((rows + self.ends).flatten(), (1, 0)).int()
        return self._starts[batch]


# Backends store the mask that they make of a `Packed`, and find it again by the identity of the object.
_packed = functools.lru_cache(64)(Packed)


def packed(lengths: Lengths, device: torch.device) -> Packed:
    """Gives the one mask of these lengths on this device."""
    build = Packed if torch.compiler.is_compiling() else _packed  # dynamo can't trace a cache
    return build(lengths, device)


def pairs(n: int, m: int, causal: bool, lengths: Lengths | None) -> int:
    """Counts the visible query-key pairs of one head."""
    return sum(x * (x + 1) // 2 if causal else x * x for x in lengths or halves(n))


def validate(lengths: Lengths | None) -> None:
    """Raises ValueError unless `lengths` is None or a tuple of whole numbers of at least 1."""
    if lengths is not None and not (isinstance(lengths, tuple) and lengths
                                    and all(isinstance(x, int) and x >= 1 for x in lengths)):
        raise ValueError(f"varlen: lengths={lengths!r} must be None or a tuple of whole numbers >= 1")


def limits(case: Case) -> str | None:
    """Refuses lengths that do not sum to n."""
    lengths = dict(case.options)["lengths"]
    if lengths is not None and sum(lengths) != case.n:
        return f"lengths sum to {sum(lengths)}, but a row holds n={case.n} tokens; they must be the same"
    return None


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Gives a probe's few tokens the default lengths."""
    return {"lengths": None}


@register("varlen", kind="exact", paper="arXiv 2210.03052", pairs=pairs, options={"lengths": None}, validate=validate,
          limits=limits, few=few, cross=False, padding=False, values=True)
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, lengths: Lengths | None) -> torch.Tensor:
    """Computes softmax attention of each sequence separately."""
    parts, start = [], 0
    for length in lengths or halves(q.shape[2]):
        one = slice(start, start + length)
        parts.append(softmax_attention(q[:, :, one], k[:, :, one], v[:, :, one], scale=scale, dtype=dtype,
                                       visible=(lambda i, j: j <= i) if causal else None))
        start += length
    return torch.cat(parts, dim=2)


@register("varlen", backends=[eager, sdpa, nested, fa2, fa3, fa4, flex])
def varlen(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
           key_mask: torch.Tensor | None, lengths: Lengths | None) -> torch.Tensor:
    """Asks the backend for softmax on packed sequences."""
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask,
                  visible=packed(lengths or halves(q.shape[2]), q.device))
