"""Masks say which keys a query sees. Each shape of mask is defined once here, for every backend.

Query `i` of N stands at key position ``i + M - N``: queries are aligned to the end of the keys, as a KV cache needs.
The oracles do not use this file; they state visibility themselves.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# visible(h, i, j) -> bool, broadcast over heads, query positions and key positions: any mask that is no band. If it has
# an attribute `by_head` that is False, all heads see the same keys.
Visible = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Band:
    """A band lets the query at position i see the keys i - left ... i + right. None means no bound on that side."""

    left: int | None = None
    right: int | None = None

    def __call__(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Gives the mask, bool, broadcast over positions `i` and `j`. At least one side must be bounded."""
        before = None if self.left is None else j >= i - self.left
        after = None if self.right is None else j <= i + self.right
        if before is None or after is None:
            visible = before if after is None else after
            assert visible is not None, "a band without bounds has no mask"
            return visible
        return before & after

    @property
    def causal(self) -> bool:
        """True if the band hides the keys after the query's own, and no other."""
        return self == CAUSAL

    def keys(self, first: int, last: int, m: int) -> range:
        """Gives the range of keys, out of `m`, that any query at positions `first` ... `last` sees."""
        start = 0 if self.left is None else max(0, first - self.left)
        stop = m if self.right is None else min(m, last + self.right + 1)
        return range(start, max(start, stop))

    def pairs(self, n: int, m: int) -> int:
        """Counts the visible query-key pairs of n queries on m keys."""
        return sum(len(self.keys(i, i, m)) for i in range(m - n, m))


FULL = Band()
CAUSAL = Band(None, 0)


def band(causal: bool) -> Band:
    """Gives the band of all keys or, causal, of all keys up to the query's own."""
    return CAUSAL if causal else FULL


def window(width: int, causal: bool) -> Band:
    """Gives a band of `width` keys, the query's own among them.

    Causal, they are the last `width` keys. Otherwise as many lie on either side; an even width has one more before.
    """
    if causal:
        return Band(width - 1, 0)
    return Band(width // 2, (width - 1) // 2)


def positions(n: int, m: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives the query positions (N, 1) and the key positions (1, M)."""
    i = torch.arange(m - n, m, device=device).unsqueeze(1)
    return i, torch.arange(m, device=device).unsqueeze(0)


def dense(band: Band, n: int, m: int, device: torch.device, key_mask: torch.Tensor | None = None,
          visible: Visible | None = None, heads: int = 1) -> torch.Tensor | None:
    """Builds the mask as a bool tensor, True = visible; None if every query sees every key.

    Its shape is (N, M), with `visible` (H, N, M), and with a `key_mask` (B, M) it is (B, 1 or H, N, M).
    """
    mask = None if band == FULL else band(*positions(n, m, device))
    if visible is not None:
        head = torch.arange(heads, device=device)[:, None, None]
        more = visible(head, *positions(n, m, device))
        mask = more if mask is None else mask & more
    if key_mask is None:
        return mask
    keep = key_mask[:, None, None, :]
    return keep.expand(-1, 1, n, -1) if mask is None else keep & mask
