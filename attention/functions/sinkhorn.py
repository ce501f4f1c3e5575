"""Sparse Sinkhorn attention sorts blocks of keys next to blocks of queries (Tay et al., arXiv 2002.11296).

The sequence is cut into T blocks of `block` positions. A sorting network scores which block belongs where,
relu([Σq, Σk] W), with sums over each block. Divided by `temperature`, exponentiated, and with rows and columns
normalised in turn `iterations` times (Sinkhorn), the scores become a soft permutation S. A block's queries attend to
the block's own keys and to those of the block sorted there, Σ_t S_t k_t, and likewise to values. No Gumbel noise is
added, so the function is deterministic.

W starts Xavier-uniform with seed 0, for ⌈seq_len / block⌉ blocks. A last block that is not full is filled up with
zeros: the sort mixes them in, but no query attends to them directly. The cost is n block + n² / block, so `block`
should grow as √n.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from attention import blocks
from attention.backends.base import Backend, Case
from attention.backends.eager import eager
from attention.backends.sdpa import sdpa
from attention.function import Parameters, require_whole
from attention.registry import register


def flops(n: int, m: int, head_dim: int, causal: bool, block: int, iterations: int, temperature: float) -> int:
    """Counts the FLOPs of one head's forward pass: sorting network, sorted keys and values, attention on two blocks."""
    T = -(-n // block)
    return 4 * head_dim * T * T + 4 * T * T * block * head_dim + 8 * head_dim * T * block * block


def peak_bytes(case: Case) -> int:
    """Predicts peak bytes: own and sorted keys and values side by side, and the blocks' scores."""
    block = dict(case.options).get("block", 64)
    size, wide = case.dtype.itemsize, max(4, case.dtype.itemsize)
    head = case.n * (case.head_dim * (7 * size + 2 * wide) + 2 * block * (2 * size + wide))
    return Backend().peak_bytes(case) + case.heads * head * (2 if case.grad else 1)


def validate(block: int, iterations: int, temperature: float) -> None:
    """Raises ValueError unless block and iterations are whole numbers of at least 1 and temperature is above 0."""
    require_whole("sinkhorn", block=block, iterations=iterations)
    if not temperature > 0:
        raise ValueError(f"sinkhorn: temperature={temperature!r} must be a number above 0")


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, block: int,
               iterations: int, temperature: float) -> Parameters:
    """Draws W, (H, 2 D, blocks). Raises ValueError without seq_len."""
    if seq_len is None:
        raise ValueError("sinkhorn: seq_len=None must be the longest sequence: its sorting network knows its blocks")
    shape = (heads, 2 * head_dim, -(-seq_len // block))
    uniform = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return {"sorting": torch.nn.Parameter((2 * uniform - 1) * (6 / (shape[1] + shape[2])) ** 0.5)}


@register("sinkhorn", kind="approximate", paper="arXiv 2002.11296", flops=flops, cost="n b + n²/b",
          options={"block": 64, "iterations": 8, "temperature": 0.75}, validate=validate, parameters=parameters,
          causal=False, cross=False, grouped=False, padding=False, convex=False, flash=False, default=False,
          test_values={"block": (16, 4, 64), "iterations": (8, 1)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None, key_mask: None,
           dtype: torch.dtype, params: Parameters, block: int, iterations: int, temperature: float) -> torch.Tensor:
    """Computes one block after the other: its queries attend to the keys sorted there and to its own."""
    n, D = q.shape[2:]
    T = -(-n // block)
    scale = D ** -0.5 if scale is None else scale
    all_q, all_k, all_v = (torch.stack(pad(x.to(dtype), (0, 0, 0, T * block - n)).split(block, dim=2), 2)
                           for x in (q, k, v))
    sums = torch.cat([all_q.sum(3), all_k.sum(3)], -1)
    log_s = (sums @ params["sorting"][:, :, :T].to(dtype)).clamp(min=0) / temperature
    for _ in range(iterations):
        log_s = log_s - log_s.logsumexp(-1, keepdim=True)
        log_s = log_s - log_s.logsumexp(-2, keepdim=True)
    s = log_s.exp()
    out = []
    for t in range(T):
        real = min(block, n - t * block)
        there = min(block, n)  # a single block is sorted onto itself, so its filling is left out
        keys, values = (torch.cat([torch.einsum("bhj,bhjcd->bhcd", s[:, :, t], x)[:, :, :there],
                                   x[:, :, t, :real]], 2) for x in (all_k, all_v))
        out.append((scale * (all_q[:, :, t] @ keys.mT)).softmax(-1) @ values)
    return torch.cat(out, 2)[:, :, :n]


def order(q_BHTCD: torch.Tensor, k_BHTCD: torch.Tensor, sorting: torch.Tensor, iterations: int,
          temperature: float) -> torch.Tensor:
    """Computes the soft permutation S, (B, H, T, T), in float32 or wider."""
    wide = torch.promote_types(q_BHTCD.dtype, torch.float32)
    sums = torch.cat([x.sum(3, dtype=wide) for x in (q_BHTCD, k_BHTCD)], -1)
    log_s = (sums @ sorting[:, :, :sums.shape[2]].to(wide)).relu() / temperature
    for _ in range(iterations):
        log_s = log_s.log_softmax(-1).log_softmax(-2)
    return log_s.exp()


@register("sinkhorn", backends=[eager, sdpa], peak_bytes=peak_bytes)
def sinkhorn(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
             key_mask: None, params: Parameters, block: int, iterations: int, temperature: float) -> torch.Tensor:
    """Computes all blocks at once; `attend` takes each block for a sequence."""
    n, longest = q.shape[2], params["sorting"].shape[2] * block
    if n > longest:
        raise ValueError(f"sinkhorn: n={n}, built for at most {longest} positions; build it for the longest sequence")
    q, k, v = (blocks.cut(x, block) for x in (q, k, v))
    s = order(q, k, params["sorting"], iterations, temperature)
    # The product is in S's dtype, since its gradient sums over whole blocks, which is too much for float16.
    keys, values = (torch.cat([(s @ x.flatten(3).to(s.dtype)).to(x.dtype).view_as(x), x], 3) for x in (k, v))
    keep = None
    if n % block:
        own = blocks.real(n, block, q.device)
        keep = torch.cat([own.any(0).expand_as(own), own], 1)
    return blocks.join(blocks.attend_within(attend, q, keys, values, scale=scale, keep_TE=keep), n)
