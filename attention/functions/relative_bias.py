"""T5's relative position bias adds a learned number for each bucket of distances (Raffel et al., arXiv 1910.10683,
section 2.1).

Half of the buckets of a direction hold one distance each. The others grow by equal ratios up to `max_distance`, and the
last also holds everything beyond. Not causal, keys before and after a query have half of the buckets each; causal, the
keys before it have all. The table (buckets, heads) starts normal with deviation 1/sqrt(heads head_dim), where heads
head_dim is the width of the model, as in T5. T5 itself does not scale the scores: pass scale=1 for its attention.
"""
from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention import masks
from attention.backends.base import Backend, Case, score_bytes
from attention.backends.eager import eager
from attention.backends.flex import flex
from attention.backends.sdpa import sdpa
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register

SEED = 0


def pairs(n: int, m: int, causal: bool, buckets: int, max_distance: int) -> int:
    """Counts the visible query-key pairs of one head."""
    return all_pairs(n, m, causal)


def validate(buckets: int, max_distance: int) -> None:
    """Raises ValueError for an odd number of buckets or fewer than 4, and for a `max_distance` below their half."""
    if not isinstance(buckets, int) or buckets < 4 or buckets % 2:
        raise ValueError(f"relative-bias: buckets={buckets!r} must be an even number >= 4")
    if not isinstance(max_distance, int) or max_distance <= buckets // 2:
        raise ValueError(f"relative-bias: max_distance={max_distance!r} must be a whole number > buckets / 2 = "
                         f"{buckets // 2}")


def parameters(*, heads: int, kv_heads: int, head_dim: int, seq_len: int | None, causal: bool, buckets: int,
               max_distance: int) -> dict[str, torch.Tensor]:
    """Draws the table, (buckets, heads)."""
    generator = torch.Generator().manual_seed(SEED)
    table = torch.randn(buckets, heads, generator=generator, dtype=torch.float64) / math.sqrt(heads * head_dim)
    return {"table": torch.nn.Parameter(table)}


def bucket(distance: torch.Tensor, causal: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """Gives the bucket of `distance`, the key position minus the query position; keys after a causal query are at 0."""
    side = buckets if causal else buckets // 2
    ago = (-distance).clamp_min(0) if causal else distance.abs()
    exact = side // 2
    ratio = (ago.double() / exact).clamp_min(1).log() / math.log(max_distance / exact)
    wide = (exact + (ratio * (side - exact) + 1e-9).long()).clamp_max(side - 1)  # 1e-9: logs of powers fall short
    first = 0 if causal else side * (distance > 0)
    return first + torch.where(ago < exact, ago, wide)


class Bias:
    """The bias(h, i, j) = `values_HR`[h, j - i + m - 1]: one row for each head, in the order of `distances`.

    No index is below zero. A GPU kernel of flex would not count such an index from the end (inductor's
    ModificationWrapper ignores `wrap_neg`) but read the row of the head before, or memory outside the tensor.
    """

    # Each stage of the pipeline holds a tile of the bias. Inductor's default, 128 queries, needs more than an H100 has.
    kernel_options: ClassVar = {"fwd_BLOCK_M": 64}

    def __init__(self, values_HR: torch.Tensor, n: int, m: int) -> None:
        self.values_HR, self.n, self.m = values_HR, n, m
        self.zero: int | torch.Tensor = m - 1  # the index of distance 0

    def __call__(self, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        if i.shape == (self.n, 1) and j.shape == (1, self.m):  # the whole matrix: each query has a window of the row
            return self.values_HR.unfold(-1, self.m, 1).flip(-2)
        return self.values_HR[h, j - (i - self.zero)]  # i - zero is one number a row


def distances(n: int, m: int, device: torch.device) -> torch.Tensor:
    """Lists the distances of n queries, the last of them at the last of m keys: 1 - m ... n - 1."""
    return torch.arange(1 - m, n, device=device)


def _numbers(n: int, m: int, device: torch.device, causal: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """Gives the bucket of each distance, (R,)."""
    return bucket(distances(n, m, device), causal, buckets, max_distance)


@functools.lru_cache(maxsize=16)
def _stored_numbers(*arguments: Any) -> torch.Tensor:
    with torch.inference_mode(False):  # a later call may want gradients
        return _numbers(*arguments)


def by_distance(table: torch.Tensor, n: int, m: int, causal: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """Looks up the bias of each distance (H, R), in float32 or wider, since many scores add to the gradient of one
    number.

    It is an embedding, not a product with a one-hot matrix. In its backward pass, where thousands of distances share a
    bucket, a GPU sums a bucket in parts; indexing would add them one by one.
    """
    wide = torch.promote_types(table.dtype, torch.float32)
    numbers = _numbers if torch.compiler.is_compiling() else _stored_numbers  # dynamo can't trace a cache
    number = numbers(n, m, table.device, causal, buckets, max_distance)
    return torch.nn.functional.embedding(number, table.to(wide)).T.contiguous()


def oracle_bucket(distance: torch.Tensor, causal: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """Gives the bucket as the paper defines it; the first distance of each wide bucket is computed in whole numbers."""
    side = buckets if causal else buckets // 2
    exact, wide = side // 2, side - side // 2
    starts = list(range(1, exact + 1))
    for step in range(1, wide):  # ago >= exact (max_distance / exact)^(step / wide)
        first = int(exact * (max_distance / exact) ** (step / wide)) - 1
        while first ** wide < exact ** (wide - step) * max_distance ** step:
            first += 1
        starts.append(first)
    ago = -distance if causal else distance.abs()
    number = torch.bucketize(ago, torch.tensor(starts, device=distance.device), right=True)
    return number if causal else number + side * (distance > 0)


@register("relative-bias", kind="structured", paper="arXiv 1910.10683", pairs=pairs, validate=validate,
          parameters=parameters, options={"buckets": 32, "max_distance": 128}, values=True,
          test_values={"buckets": (8, 6, 32), "max_distance": (20, 128)})
def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None,
           key_mask: torch.Tensor | None, dtype: torch.dtype, buckets: int, max_distance: int,
           params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes softmax attention with table[bucket(j - i), h] added to the scores."""
    table = params["table"]
    return softmax_attention(q, k, v, scale=scale, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None,
                             bias=lambda h, i, j: table[oracle_bucket(j - i, causal, buckets, max_distance), h])


def dense_bytes(backend: Backend) -> Callable[[Case], int]:
    """Predicts peak bytes: the backend's, and the bias in float32 and in the inputs' dtype, with their gradients."""
    def peak_bytes(case: Case) -> int:
        wide = max(1.0, 4 / case.dtype.itemsize)
        return backend.peak_bytes(case) + score_bytes(case, forward=1 + wide, backward=2 + 2 * wide)

    return peak_bytes


@register("relative-bias", backends=[eager], peak_bytes=dense_bytes(eager))
@register("relative-bias", backends=[sdpa], peak_bytes=dense_bytes(sdpa))
def dense(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
          key_mask: torch.Tensor | None, buckets: int, max_distance: int,
          params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Makes a new bias at each call, since the table learns; sdpa would reuse the stored matrix of the same object."""
    n, m = q.shape[2], k.shape[2]
    values = by_distance(params["table"], n, m, causal, buckets, max_distance)
    # cuDNN's kernel has no gradient for a bias.
    learns = q.is_cuda and values.requires_grad and torch.is_grad_enabled()
    able = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if learns else contextlib.nullcontext()
    with able:
        return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, bias=Bias(values, n, m))


_biases: weakref.WeakKeyDictionary[Callable, Bias] = weakref.WeakKeyDictionary()


@register("relative-bias", backends=[flex])
def on_flex(attend: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float,
            key_mask: torch.Tensor | None, buckets: int, max_distance: int,
            params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Makes one bias for each kernel, which then reuses its block mask and reads the values at the call."""
    n, m = q.shape[2], k.shape[2]
    values = by_distance(params["table"], n, m, causal, buckets, max_distance)
    bias = _biases.get(attend)
    if bias is None or (bias.n, bias.m, bias.values_HR.device) != (n, m, values.device):
        bias = _biases[attend] = Bias(values, n, m)
        # A Python number would be compiled in for each length, and one of 64 bits makes each index 64 bits wide.
        bias.zero = torch.full((), m - 1, dtype=torch.int32, device=values.device)
    bias.values_HR = values
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask, bias=bias)
