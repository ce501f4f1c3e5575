"""LSH attention (Kitaev et al., Reformer: The Efficient Transformer, arXiv 2001.04451).

Queries and keys are shared: `q` is both, the key of a position being q / |q|, and `k` is never used. In each of
`rounds` rounds a position falls into the bucket argmax [q R, −q R] of a random rotation R; positions are sorted by
bucket, then by place, and cut into chunks of `chunk`; each attends to its own chunk and the one before. A position
attends to itself only where it sees no other. Rounds are weighted by their sums of exponentials.

As in the authors' code the chunks of all rounds form one ring, the first looking back at the last; what lies in a
chunk but in another bucket is seen; and a key found several times counts as often. R, (D, rounds, buckets / 2), is
fixed, standard normal by `seed`, with buckets = 2 ⌈seq_len / (2 chunk)⌉. The buckets are taken in float64 of q and
R as they come, so that every dtype and variant finds the same ones.

Causal is as published: no later key is attended to, yet where chunks begin depends on all positions.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize, pad

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.function import Parameters
from attention.reference import softmax_attention
from attention.registry import register

SELF = -5e4  # the score of a position with itself: too small to count, but for where it is alone


def flops(n: int, m: int, head_dim: int, causal: bool, chunk: int, rounds: int, seed: int) -> int:
    """Of one head's forward pass by chunks, built for seq_len = n: hashes, then two chunks a position and round."""
    buckets, padded = -(-n // (2 * chunk)), -(-n // chunk) * chunk
    return 2 * head_dim * n * rounds * buckets + 8 * head_dim * rounds * padded * chunk


def peak_bytes(case: Case) -> int:
    """Predicted: sorted queries, keys, values and outputs of every round, and the chunks' scores."""
    options = dict(case.options)
    chunk, rounds = options.get("chunk", 64), options.get("rounds", 4)
    size, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    kept = rounds * case.n * (4 * case.head_dim * size + 3 * chunk * wide + 5 * 8)
    return Backend().peak_bytes(case) + case.heads * kept * (2 if case.grad else 1)


def dense_bytes(case: Case) -> int:
    """Predicted: n x n scores and counts, twice."""
    size, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    matrices = (2 * size + 3 * wide) * (2 if case.grad else 1)
    return Backend().peak_bytes(case) + case.heads * case.n ** 2 * matrices


def validate(chunk: int, rounds: int, seed: int) -> None:
    """Raises ValueError unless chunk and rounds are whole numbers of at least 1, and seed of at least 0."""
    for name, value, least in (("chunk", chunk, 1), ("rounds", rounds, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"reformer: {name}={value!r} must be a whole number >= {least}")


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, chunk: int,
               rounds: int, seed: int) -> Parameters:
    """The random rotations, fixed and shared by all heads."""
    if seq_len is None:
        raise ValueError("reformer: seq_len=None must be the usual length: it decides the number of buckets")
    shape = (head_dim, rounds, -(-seq_len // (2 * chunk)))
    return {"rotations": torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))}


@register("reformer", kind="approximate", paper="arXiv 2001.04451", flops=flops, cost="n log n",
          options={"chunk": 64, "rounds": 4, "seed": 0}, validate=validate, parameters=parameters,
          cross=False, grouped=False, padding=False, flash=False, default=False,
          test_values={"chunk": (16, 4, 64), "rounds": (2, 1, 3)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, params: Parameters, chunk: int, rounds: int, seed: int) -> torch.Tensor:
    """One softmax over all keys: key j counts as often for i as it stands in i's chunks, ln of that added.

    The weighted sum of the rounds' softmaxes is that one softmax, their sums of exponentials being its parts.
    """
    B, n = len(q), q.shape[2]
    chunks = -(-n // chunk)
    with torch.no_grad():
        projected = torch.einsum("bhnd,drf->rbhnf", q.double(), params["rotations"].double())
        bucket = torch.cat([projected, -projected], -1).argmax(-1)
        rank = (bucket * n + torch.arange(n, device=q.device)).argsort(-1).argsort(-1)
        where = rank // chunk + chunks * torch.arange(rounds, device=q.device)[:, None, None, None]

    def log_count(b: int) -> Callable:
        def bias(h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            times = torch.zeros((), dtype=torch.long, device=q.device)
            for r in range(rounds):
                own = where[r, b, h, i]
                before = (own - 1) % (chunks * rounds)
                times = times + (where[r, b, h, j] == own).long() + (where[r, b, h, j] == before)
                if rounds > 1:
                    times = times + (where[r - 1, b, h, j] == before)
            return torch.where(i == j, SELF, 0.0) + times.double().log()
        return bias

    keys = q.to(dtype) / torch.linalg.vector_norm(q.to(dtype), dim=-1, keepdim=True)
    return torch.cat([softmax_attention(q[b:b + 1], keys[b:b + 1], v[b:b + 1], scale=scale, dtype=dtype,
                                        visible=(lambda i, j: j <= i) if causal else None, bias=log_count(b))
                      for b in range(B)])


def sorted_positions(q: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Every round's positions by bucket, then by place: (B, H, R, N)."""
    with torch.no_grad():
        projected = torch.einsum("bhnd,drf->bhrnf", q.double(), rotations.double())
        bucket = torch.cat([projected, -projected], -1).argmax(-1)
        return (bucket * q.shape[2] + torch.arange(q.shape[2], device=q.device)).argsort(-1)


def shared_keys(q: torch.Tensor) -> torch.Tensor:
    return normalize(q.to(torch.promote_types(q.dtype, torch.float32)), dim=-1).to(q.dtype)


@register("reformer", backends=[eager], peak_bytes=dense_bytes)
def reformer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: None, params: Parameters, chunk: int, rounds: int, seed: int) -> torch.Tensor:
    """A full matrix of scores, and how often each pair meets."""
    B, H, n, _ = q.shape
    chunks = -(-n // chunk)
    rank = sorted_positions(q, params["rotations"]).argsort(-1)
    ring = torch.arange(rounds, device=q.device)[:, None] * chunks + rank // chunk
    member = torch.zeros(B, H, n, rounds * chunks, dtype=q.dtype, device=q.device)
    member = member.scatter_(-1, ring.transpose(2, 3), 1)
    times = member @ (member + member.roll(1, -1)).mT  # small whole numbers: exact in every dtype
    scores = ((q * scale) @ shared_keys(q).mT).to(torch.promote_types(q.dtype, torch.float32))
    scores = (scores + times.to(scores.dtype).log()).masked_fill(
        torch.eye(n, dtype=torch.bool, device=q.device), SELF)
    if causal:
        scores = scores.masked_fill(~masks.CAUSAL(*masks.positions(n, n, q.device)), -torch.inf)
    return scores.softmax(-1).to(q.dtype) @ v


@register("reformer", backends=[chunked], peak_bytes=peak_bytes)
def by_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: None, params: Parameters, chunk: int, rounds: int, seed: int) -> torch.Tensor:
    """Sorted, cut, attended to in pairs of chunks, put back, and the rounds added up."""
    B, H, n, D = q.shape
    chunks = -(-n // chunk)
    order = sorted_positions(q, params["rotations"])
    place = pad(order, (0, chunks * chunk - n), value=n)  # n: no position
    index = place.clamp(max=n - 1)[..., None].expand(-1, -1, -1, -1, D)

    def cut(x: torch.Tensor) -> torch.Tensor:
        """(B, H, N, D) -> (B, H, R T, C, D), sorted."""
        taken = x.unsqueeze(2).expand(-1, -1, rounds, -1, -1).gather(3, index)
        return taken.reshape(B, H, rounds * chunks, chunk, D)

    def with_last(x: torch.Tensor) -> torch.Tensor:
        """Each chunk's keys and the one's before it."""
        return torch.cat([x, x.roll(1, 2)], 3)

    i = place.reshape(B, H, rounds * chunks, chunk)
    i, j = i[..., None], with_last(i)[..., None, :]
    scores = ((cut(q) * scale) @ with_last(cut(shared_keys(q))).mT).to(torch.promote_types(q.dtype, torch.float32))
    scores.masked_fill_(i == j, SELF).masked_fill_(j == n, -torch.inf)
    if causal:
        scores.masked_fill_(j > i, -torch.inf)
    log_sum = scores.logsumexp(-1, keepdim=True)
    scores = scores.softmax(-1).to(q.dtype)
    out = scores @ with_last(cut(v))

    def back(x: torch.Tensor) -> torch.Tensor:
        """(B, H, R T, C, E) -> (B, H, R, N, E), in the order of positions."""
        x = x.reshape(B, H, rounds, chunks * chunk, -1)
        return x.gather(3, order.argsort(-1)[..., None].expand(-1, -1, -1, -1, x.shape[-1]))

    share = back(log_sum).softmax(2)
    return (share * back(out)).sum(2).to(q.dtype)
