"""Chooses the blocks of keys that ALiBi can't skip, from q and k on their device.

A query's own key weighs e^s in its softmax. With slope a, a key d tokens away weighs at most e^(S - a d), where S is
scale |q| times the length of the longest key. Let C be the largest S - s of a head's queries. The keys beyond distance
r on one side weigh, relative to the query's own key, at most

    e^C (e^(-a r) + e^(-a (r+1)) + ...) = e^(C - a r) / (1 - e^(-a)),

and at most e^(C - a r) times their number. r is chosen so that this is `tolerance(dtype)`, and blocks wholly beyond r
are skipped. So no row of the softmax loses a larger share of its weight, and no column, over which the gradients of
keys and values sum, loses more than a row. The bound is that of Adaptive Computation Pruning (Lin et al., arXiv
2504.06949) with ALiBi in place of the forget gate, and each query's own score in place of its lower bound. The
remaining blocks form a band, so their lists are arithmetic. Nothing waits for the host, and a CUDA graph decides again
at each replay.
"""
from __future__ import annotations

from typing import NamedTuple

import torch

SIZE = 128  # tokens of a block
SLACK = 2.0 ** -13  # relative error of a product of up to 512 channels that is summed in float32


def tolerance(dtype: torch.dtype) -> float:
    """Gives the largest share of a row's weight to skip: a 32nd of the dtype's eps, 2.4e-4 in bfloat16."""
    return torch.finfo(dtype).eps / 32


def reach(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, slopes_H: torch.Tensor, *, scale: float, causal: bool,
          key_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Computes the distance (B, H), in whole tokens, beyond which no key matters; needs n <= m.

    It is n + m, so every key matters, if the slope is not positive or if some query's own key is masked.
    """
    n, m, groups = q_BHND.shape[2], k_BGMD.shape[2], k_BGMD.shape[1]
    wide = torch.promote_types(q_BHND.dtype, torch.float32)
    q, k = q_BHND.unflatten(1, (groups, -1)).to(wide), k_BGMD.unsqueeze(2).to(wide)  # (B, G, R, N, D), (B, G, 1, M, D)
    own = scale * (q * k[..., m - n:, :]).sum(-1)
    most = abs(scale) * (1 + SLACK) * q.norm(dim=-1) * k.norm(dim=-1).amax(-1, keepdim=True)
    excess = (most - own).amax(-1).flatten(1)
    slopes = slopes_H.to(wide)
    keys = ((1 if causal else 2) / -torch.expm1(-slopes)).clamp_max(m)
    distance = (excess + torch.log(keys / tolerance(q_BHND.dtype))) / slopes
    unlimited = (slopes <= 0).expand_as(distance)
    if key_mask is not None:
        unlimited = unlimited | ~key_mask[:, m - n:].all(-1, keepdim=True)
    return distance.masked_fill(unlimited, n + m).nan_to_num(nan=n + m).clamp(0, n + m).ceil().int()


class Blocks(NamedTuple):
    """Lists blocks of SIZE by SIZE in the form of FlexAttention's BlockMask.

    For each block of queries there are the blocks of keys that it sees in part and those that it sees whole; for each
    block of keys there are the blocks of queries. Counts are (B, H, blocks), block numbers (B, H, blocks, blocks),
    int32.
    """

    kv_count: torch.Tensor
    kv: torch.Tensor
    full_kv_count: torch.Tensor
    full_kv: torch.Tensor
    q_count: torch.Tensor
    q: torch.Tensor
    full_q_count: torch.Tensor
    full_q: torch.Tensor


def blocks(reach_BH: torch.Tensor, n: int, m: int, *, causal: bool, masked: bool = False, size: int = SIZE) -> Blocks:
    """Lists the blocks within reach. With `masked` keys no block counts as whole.

    As in FlexAttention, a last block of queries that is not full sees its keys in part.
    """
    rows, columns, off = -(-n // size), -(-m // size), m - n
    ragged_q, ragged_k = n % size > 0, m % size > 0
    r = reach_BH.unsqueeze(-1)
    i = torch.arange(rows, device=r.device, dtype=torch.int32).expand(*reach_BH.shape, -1)
    j = torch.arange(columns, device=r.device, dtype=torch.int32).expand(*reach_BH.shape, -1)

    # Queries of block i stand at first ... first + size - 1. It sees key blocks low ... high - 1, whole up to `part`.
    first = i * size + off
    low = ((first - r) // size).clamp_min(0)
    high = (first + size - 1 + (0 if causal else r)) // size + 1
    high = high.clamp_max(columns)
    part = (first + 1) // size if causal else torch.where(high == columns, columns - ragged_k, high)
    part = part.clamp(low, high)
    if masked or ragged_q:
        part = torch.where((i == rows - 1) | masked, low, part)

    # For key block j: it is seen by the query blocks top ... bottom - 1, in part up to `whole`, and by the ragged last.
    last = j * size + size - 1
    top = ((j * size - off - (0 if causal else r)) // size).clamp(0, rows)
    bottom = ((last + r - off) // size + 1).clamp_max(rows).maximum(top)
    tail = (bottom == rows) & (top < rows) & ragged_q
    bottom = bottom - tail.int()
    whole = (last + size - 1 - off) // size if causal else torch.where((j == columns - 1) & ragged_k, bottom, top)
    whole = bottom if masked else whole.clamp(top, bottom)

    def run(start: torch.Tensor, stop: torch.Tensor, of: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = start.unsqueeze(-1) + torch.arange(of, device=r.device, dtype=torch.int32)
        return (stop - start).contiguous(), numbers.clamp(0, of - 1)

    q_count, q = run(top, whole, rows)
    q = torch.where(q < whole.unsqueeze(-1), q, rows - 1)  # the ragged last block follows the others
    return Blocks(*run(part, high, columns), *run(low, part, columns), q_count + tail.int(), q,
                  *run(whole, bottom, rows))


def select(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, slopes_H: torch.Tensor, scale: float, causal: bool,
           key_mask: torch.Tensor | None = None) -> Blocks:
    """Lists the blocks that ALiBi on q and k can't skip."""
    distance = reach(q_BHND, k_BGMD, slopes_H, scale=scale, causal=causal, key_mask=key_mask)
    return blocks(distance, q_BHND.shape[2], k_BGMD.shape[2], causal=causal, masked=key_mask is not None)
