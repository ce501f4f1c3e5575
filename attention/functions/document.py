"""Document attention stays within documents of one length that fill a sequence: its mask is block-diagonal, as in the
training of language models on packed texts (Grattafiori et al., The Llama 3 Herd of Models, arXiv 2407.21783, section
3.2)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attention import masks
from attention.backends.eager import eager
from attention.backends.fa2 import fa2
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flex import flex
from attention.backends.flex_fa4 import flex_fa4
from attention.backends.sdpa import sdpa
from attention.function import require_whole
from attention.functions.varlen import packed
from attention.reference import softmax_attention
from attention.registry import register


@dataclass(frozen=True)
class Documents:
    """The mask `visible(h, i, j)`: query i and key j are in the same document of `length` tokens."""

    length: int
    by_head: ClassVar[bool] = False

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return i // self.length == j // self.length


def pairs(n: int, m: int, causal: bool, length: int) -> int:
    """Counts the visible query-key pairs of one head."""
    return sum((i + 1 if causal else min(m, i - i % length + length)) - (i - i % length)
               for i in range(max(0, m - n), m))


def validate(length: int) -> None:
    """Raises ValueError unless `length` is a whole number of at least 1."""
    require_whole("document", length=length)


def few(options: dict[str, Any], m: int) -> dict[str, Any]:
    """Shortens documents so that a probe's few keys hold at least two."""
    return {"length": min(options["length"], max(1, m // 2))}


@register("document", kind="structured", paper="arXiv 2407.21783", pairs=pairs, options={"length": 256},
          validate=validate, few=few, cost="n", values=True,
          test_values={"length": (32, 1, 2, 7, 64, 300)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, length: int) -> torch.Tensor:
    """Computes softmax attention over the keys of the query's own document."""
    def visible(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        same = i - i % length == j - j % length  # the positions at which their documents start
        return same & (j <= i) if causal else same

    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype, visible=visible)


LARGEST_BATCH = 65535  # what a GPU's grid takes in its second and third dimension


def is_batch(q: torch.Tensor, k: torch.Tensor, key_mask: torch.Tensor | None, length: int) -> bool:
    """Says whether the documents are a batch as they lie: all have `length` tokens, and every head its own keys.

    Then a reshape makes sequences with one head of them, and copies nothing where the rows of a head lie together.
    """
    batch, heads, n, _ = q.shape
    return (k.shape[1:3] == (heads, n) and n % length == 0 and key_mask is None
            and batch * heads * n // length <= LARGEST_BATCH)


def in_batch(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             length: int) -> torch.Tensor:
    """Asks the backend for softmax of a batch: each document of each head is a sequence."""
    q1, k1, v1 = (x.reshape(-1, 1, length, x.shape[3]) for x in (q, k, v))
    return attend(q1, k1, v1, scale=scale, band=masks.band(causal)).reshape(*q.shape[:3], -1)


@register("document", backends=[eager, sdpa, flex, flex_fa4])
def document(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: torch.Tensor | None, length: int) -> torch.Tensor:
    """Asks the backend for a batch where the documents are one, else for softmax under a mask."""
    if is_batch(q, k, key_mask, length):
        return in_batch(attend, q, k, v, causal=causal, scale=scale, length=length)
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, visible=Documents(length))


@register("document", backends=[fa2, fa3, fa4])
def document_packed(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool,
                    scale: float, key_mask: torch.Tensor | None, length: int) -> torch.Tensor:
    """Asks the backend for a batch where the documents are one, else for packed sequences. Raises ValueError if there
    are not as many queries as keys."""
    if is_batch(q, k, key_mask, length):
        return in_batch(attend, q, k, v, causal=causal, scale=scale, length=length)
    m = k.shape[2]
    if q.shape[2] != m:
        raise ValueError("packed sequences have a query for every key; pass as many queries as keys")
    lengths = (length,) * (m // length) + ((m % length,) if m % length else ())
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, visible=packed(lengths, q.device))
