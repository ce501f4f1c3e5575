"""ALiBi that skips: the blocks of keys that are near enough to matter, worked out from q and k, on their device.

A query's own key weighs e^s in its softmax. With slope a, a key d tokens away weighs at most e^(S - a d), S being
scale |q| times the longest key's length. Let C be the largest S - s of a head's queries. The keys further than r on one
side weigh, relative to the query's own, at most

    e^C (e^(-a r) + e^(-a (r+1)) + ...) = e^(C - a r) / (1 - e^(-a)),

and no more than e^(C - a r) times their number. With r so that this is `tolerance(dtype)`, blocks wholly beyond r are
left out: no row of the softmax loses a larger share of its weight, and no column, which the gradients of keys and
values sum, more than a row. The bound is Adaptive Computation Pruning's (Lin et al., arXiv 2504.06949) with ALiBi in
the forget gate's place, and each query's own score in place of its lower bound. What is kept forms a band, so that the
lists of blocks are arithmetic; nothing waits for the host, and a CUDA graph decides anew at each replay.
"""
from __future__ import annotations

from typing import NamedTuple

import torch

SIZE = 128  # tokens of a block
SLACK = 2.0 ** -13  # of a product of up to 512 channels summed in float32


def tolerance(dtype: torch.dtype) -> float:
    """The largest share of a row's weight that is left out: a 32nd of the dtype's eps, 2.4e-4 in bfloat16."""
    return torch.finfo(dtype).eps / 32


def reach(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, slopes_H: torch.Tensor, *, scale: float, causal: bool,
          key_mask: torch.Tensor | None = None) -> torch.Tensor:
    """The distance (B, H) in whole tokens beyond which nothing matters, n + m where everything may; needs n <= m.

    Everything may where the slope is not positive, and where some query's own key is masked.
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
    everything = (slopes <= 0).expand_as(distance)
    if key_mask is not None:
        everything = everything | ~key_mask[:, m - n:].all(-1, keepdim=True)
    return distance.masked_fill(everything, n + m).nan_to_num(nan=n + m).clamp(0, n + m).ceil().int()


class Blocks(NamedTuple):
    """Blocks of SIZE by SIZE, as FlexAttention's BlockMask has them: for each block of queries the blocks of keys it
    sees in part and those it sees whole, and for each block of keys the blocks of queries; counts (B, H, blocks) and
    block numbers (B, H, blocks, blocks), int32."""

    kv_count: torch.Tensor
    kv: torch.Tensor
    full_kv_count: torch.Tensor
    full_kv: torch.Tensor
    q_count: torch.Tensor
    q: torch.Tensor
    full_q_count: torch.Tensor
    full_q: torch.Tensor


def blocks(reach_BH: torch.Tensor, n: int, m: int, *, causal: bool, masked: bool = False, size: int = SIZE) -> Blocks:
    """The blocks within reach. `masked`: keys are masked, so that no block counts as whole.

    As FlexAttention itself has it, a last block of queries that is not full sees its keys in part.
    """
    rows, columns, off = -(-n // size), -(-m // size), m - n
    ragged_q, ragged_k = n % size > 0, m % size > 0
    r = reach_BH.unsqueeze(-1)
    i = torch.arange(rows, device=r.device, dtype=torch.int32).expand(*reach_BH.shape, -1)
    j = torch.arange(columns, device=r.device, dtype=torch.int32).expand(*reach_BH.shape, -1)

    # Queries of block i stand at first ... first + size - 1; it sees the key blocks low ... high - 1, whole up to part.
    first = i * size + off
    low = ((first - r) // size).clamp_min(0)
    high = (first + size - 1 + (0 if causal else r)) // size + 1
    high = high.clamp_max(columns)
    part = (first + 1) // size if causal else torch.where(high == columns, columns - ragged_k, high)
    part = part.clamp(low, high)
    if masked or ragged_q:
        part = torch.where((i == rows - 1) | masked, low, part)

    # The same seen from key block j: the query blocks top ... bottom - 1, in part up to whole, and the ragged last one.
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
    """The blocks that ALiBi of q and k keeps."""
    distance = reach(q_BHND, k_BGMD, slopes_H, scale=scale, causal=causal, key_mask=key_mask)
    return blocks(distance, q_BHND.shape[2], k_BGMD.shape[2], causal=causal, masked=key_mask is not None)
