"""LSH attention compares only positions that hash alike (Kitaev et al., Reformer: The Efficient Transformer, arXiv
2001.04451).

Queries and keys are shared: `q` is both, the key of a position is q / |q|, and `k` is not used. In each of `rounds`
rounds a random rotation R puts a position into the bucket argmax [q R, −q R]. Positions are sorted by bucket, then by
place, and cut into chunks of `chunk`; each attends to its own chunk and the one before. A position attends to itself
only if it sees no other. Rounds are weighted by their sums of exponentials.

As in the authors' code, the chunks of all rounds form one ring, so the first looks back at the last; a position sees
all of a chunk, other buckets too; and a key that it meets several times counts as often. R, (D, rounds, buckets / 2),
is constant, standard normal by `seed`, with buckets = 2 ⌈seq_len / (2 chunk)⌉. The buckets are computed in float64 from
q and R, so every dtype and variant has the same ones.

The causal form is as published: no position attends to a later key, but the chunks depend on all positions.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize, pad

from attention import masks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.plain import chunked
from attention.backends.product import product, wide
from attention.function import Parameters, require_whole
from attention.reference import softmax_attention
from attention.registry import register

SELF = -5e4  # the score of a position with itself: it counts only if there is no other


def flops(n: int, m: int, head_dim: int, causal: bool, chunk: int, rounds: int, seed: int) -> int:
    """Counts the FLOPs of one head's forward pass, built for seq_len = n: hashes, then two chunks for each position."""
    buckets, length = -(-n // (2 * chunk)), -(-n // chunk) * chunk
    return 2 * head_dim * n * rounds * buckets + 8 * head_dim * rounds * length * chunk


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: sorted queries, keys, values and outputs of every round, and the chunks' scores."""
    options = dict(case.options)
    chunk, rounds = options.get("chunk", 64), options.get("rounds", 4)
    size, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    head = rounds * case.n * (4 * case.head_dim * size + 3 * chunk * wide + 5 * 8)
    return Backend().peak_bytes(case) + case.heads * head * (2 if case.grad else 1)


def dense_bytes(case: Case) -> int:
    """Predicts peak bytes: n x n scores and counts, with gradients twice."""
    size, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    matrices = (2 * size + 3 * wide) * (2 if case.grad else 1)
    return Backend().peak_bytes(case) + case.heads * case.n ** 2 * matrices


def validate(chunk: int, rounds: int, seed: int) -> None:
    """Raises ValueError unless `chunk` and `rounds` are whole numbers of at least 1 and `seed` one of at least 0."""
    require_whole("reformer", chunk=chunk, rounds=rounds)
    require_whole("reformer", least=0, seed=seed)


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, chunk: int,
               rounds: int, seed: int) -> Parameters:
    """Draws the rotations, which are constant and the same for all heads. Raises ValueError without seq_len."""
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
    """Computes one softmax over all keys: the number of times that i meets j adds its logarithm to their score.

    The weighted sum of the rounds' softmaxes is this one softmax, since their sums of exponentials are its parts.
    """
    B, n = len(q), q.shape[2]
    chunks = -(-n // chunk)
    with torch.no_grad():
        projection = torch.einsum("bhnd,drf->rbhnf", q.double(), params["rotations"].double())
        bucket = torch.cat([projection, -projection], -1).argmax(-1)
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
    """Sorts the positions of every round by bucket, then by place -> (B, H, R, N)."""
    with torch.no_grad():
        projection = torch.einsum("bhnd,drf->bhrnf", q.double(), rotations.double())
        bucket = torch.cat([projection, -projection], -1).argmax(-1)
        return (bucket * q.shape[2] + torch.arange(q.shape[2], device=q.device)).argsort(-1)


def keys_of(q: torch.Tensor) -> torch.Tensor:
    """Gives the key of each position, q / |q| -> (B, H, N, D)."""
    return normalize(wide(q), dim=-1)


@register("reformer", backends=[eager], peak_bytes=dense_bytes)
def reformer(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: None, params: Parameters, chunk: int, rounds: int, seed: int) -> torch.Tensor:
    """Computes the full matrix of scores, and how often each pair meets."""
    B, H, n, _ = q.shape
    chunks = -(-n // chunk)
    rank = sorted_positions(q, params["rotations"]).argsort(-1)
    ring = torch.arange(rounds, device=q.device)[:, None] * chunks + rank // chunk
    member = torch.zeros(B, H, n, rounds * chunks, dtype=q.dtype, device=q.device)
    member = member.scatter_(-1, ring.transpose(2, 3), 1)
    times = member @ (member + member.roll(1, -1)).mT  # small whole numbers: exact in every dtype
    scores = product(wide(q), keys_of(q).mT, scale, dtype=q.dtype)
    scores = (scores + times.to(scores.dtype).log()).masked_fill(
        torch.eye(n, dtype=torch.bool, device=q.device), SELF)
    if causal:
        scores = scores.masked_fill(~masks.CAUSAL(*masks.positions(n, n, q.device)), -torch.inf)
    scores = scores.softmax(-1)
    return product(scores, v).to(q.dtype)


@register("reformer", backends=[chunked], peak_bytes=peak_bytes)
def by_chunks(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
              key_mask: None, params: Parameters, chunk: int, rounds: int, seed: int) -> torch.Tensor:
    """Sorts and cuts the positions, computes pairs of chunks, restores the order, and adds up the rounds."""
    B, H, n, D = q.shape
    chunks = -(-n // chunk)
    order = sorted_positions(q, params["rotations"])
    place = pad(order, (0, chunks * chunk - n), value=n)  # n stands for no position
    index = place.clamp(max=n - 1)[..., None].expand(-1, -1, -1, -1, D)

    def cut(x: torch.Tensor) -> torch.Tensor:
        """Sorts and cuts (B, H, N, D) -> (B, H, R T, C, D)."""
        x = x.unsqueeze(2).expand(-1, -1, rounds, -1, -1).gather(3, index)
        return x.reshape(B, H, rounds * chunks, chunk, D)

    def with_last(x: torch.Tensor) -> torch.Tensor:
        """Joins each chunk and the one before it."""
        return torch.cat([x, x.roll(1, 2)], 3)

    i = place.reshape(B, H, rounds * chunks, chunk)
    i, j = i[..., None], with_last(i)[..., None, :]
    scores = product(cut(wide(q)), with_last(cut(keys_of(q))).mT, scale, dtype=q.dtype)
    scores = scores.masked_fill(i == j, SELF).masked_fill(j == n, -torch.inf)
    if causal:
        scores = scores.masked_fill(j > i, -torch.inf)
    log_sum = scores.logsumexp(-1, keepdim=True)
    scores = scores.softmax(-1)
    out = product(scores, with_last(cut(wide(v))), dtype=q.dtype)

    def restore(x: torch.Tensor) -> torch.Tensor:
        """Restores the order of positions, (B, H, R T, C, E) -> (B, H, R, N, E)."""
        x = x.reshape(B, H, rounds, chunks * chunk, -1)
        return x.gather(3, order.argsort(-1)[..., None].expand(-1, -1, -1, -1, x.shape[-1]))

    share = restore(log_sum).softmax(2)
    return (share * restore(out)).sum(2).to(q.dtype)
