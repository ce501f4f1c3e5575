"""Which keys a query sees: each shape of mask defined once, for every backend.

Positions: query `i` of N stands at key position ``i + M - N``: queries are aligned to the end of
the keys, as a KV cache needs. The oracles do not use this file; they state visibility themselves.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# visible(h, i, j) -> bool, broadcast over heads, query and key positions: any mask that is no band. Where its attribute
# `by_head` is False, all heads see the same.
Visible = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Band:
    """A query at position i sees keys i - left ... i + right; None means without end."""

    left: int | None = None
    right: int | None = None

    def __call__(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Bool, broadcast over positions `i` and `j`; at least one side must be bounded."""
        before = None if self.left is None else j >= i - self.left
        after = None if self.right is None else j <= i + self.right
        if before is None or after is None:
            seen = before if after is None else after
            assert seen is not None, "a band without bounds has no mask"
            return seen
        return before & after

    @property
    def causal(self) -> bool:
        """Exactly "no key after the query's own", with no other bound."""
        return self == CAUSAL

    def keys(self, first: int, last: int, m: int) -> range:
        """The keys that some query at positions `first` ... `last` sees, out of `m`."""
        start = 0 if self.left is None else max(0, first - self.left)
        stop = m if self.right is None else min(m, last + self.right + 1)
        return range(start, max(start, stop))

    def pairs(self, n: int, m: int) -> int:
        """Visible query-key pairs of n queries on m keys."""
        return sum(len(self.keys(i, i, m)) for i in range(m - n, m))


FULL = Band()
CAUSAL = Band(None, 0)


def band(causal: bool) -> Band:
    """All keys, or all up to the query's own."""
    return CAUSAL if causal else FULL


def window(width: int, causal: bool) -> Band:
    """`width` keys, the query's own among them: the last `width`, or as many on either side (for
    an even width one more before than after)."""
    if causal:
        return Band(width - 1, 0)
    return Band(width // 2, (width - 1) // 2)


def positions(n: int, m: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Query positions (N, 1) and key positions (1, M)."""
    i = torch.arange(m - n, m, device=device).unsqueeze(1)
    return i, torch.arange(m, device=device).unsqueeze(0)


def dense(band: Band, n: int, m: int, device: torch.device, key_mask: torch.Tensor | None = None,
          visible: Visible | None = None, heads: int = 1) -> torch.Tensor | None:
    """Bool mask, True = visible: (N, M); (H, N, M) with `visible`; (B, 1 or H, N, M) with a `key_mask` (B, M);
    None = all."""
    mask = None if band == FULL else band(*positions(n, m, device))
    if visible is not None:
        head = torch.arange(heads, device=device)[:, None, None]
        more = visible(head, *positions(n, m, device))
        mask = more if mask is None else mask & more
    if key_mask is None:
        return mask
    keep = key_mask[:, None, None, :]
    return keep.expand(-1, 1, n, -1) if mask is None else keep & mask
