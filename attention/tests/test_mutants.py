"""Tests of the tests: variants broken on purpose, each of which the properties must catch."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attention
from attention import masks
from attention.backends.eager import attend as eager_attend
from attention.functions.alibi import Alibi
from attention.tests import properties
from attention.tests.properties import Call

CPU = torch.device("cpu")
SOFTMAX = Call("softmax", causal=True)
FULL = Call("softmax")
ALIBI = Call("alibi", causal=True)
WINDOW = Call("sliding-window", causal=True, options={"window": 5})
LONG = Call("softmax", batch=1, n=512, m=512, causal=True)
PADDED = Call("softmax", padded=True)
CROSS = Call("softmax", n=10, causal=True)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])


def with_eager(call: Call, **changed: object) -> Callable[..., torch.Tensor]:
    """The function of `call` on the eager backend, with some of what it is told changed."""
    def mutant(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        told: dict[str, Any] = {"scale": call.scale or call.head_dim ** -0.5, "band": masks.band(call.causal),
                                "bias": None, "key_mask": key_mask_BM}
        if call.function == "alibi":
            told["bias"] = Alibi(call.heads, q.device, call.causal)
        if call.function == "sliding-window":
            told["band"] = masks.window(call.options["window"], call.causal)
        return eager_attend(q, k, v, **{**told, **changed})

    return mutant


def test_nan_is_wrong() -> None:
    with pytest.raises(AssertionError, match="wrong: out has 3072 NaN of 3072, the first in sequence 0, head 0"):
        properties.is_right(SOFTMAX, lambda q, k, v: with_eager(SOFTMAX)(q, k, v) * torch.nan, CPU, grad=False)


@pytest.mark.parametrize("call", [SOFTMAX, CROSS], ids=["self", "cached"])
def test_causality_catches_a_mask_one_late(call: Call) -> None:
    with pytest.raises(AssertionError, match="the future shows"):
        properties.is_causal(call, with_eager(call, band=masks.Band(None, 1)), CPU)


def test_independence_catches_mixed_heads() -> None:
    def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = with_eager(SOFTMAX)(q, k, v)
        return out + 1e-3 * out.mean(1, keepdim=True)

    with pytest.raises(AssertionError, match="changed"):
        properties.keeps_sequences_and_heads_apart(SOFTMAX, mixed, CPU)


def test_the_hull_catches_weights_that_do_not_sum_to_one() -> None:
    with pytest.raises(AssertionError):
        properties.stays_in_the_hull(FULL, lambda q, k, v: 1.01 * with_eager(FULL)(q, k, v), CPU)


def test_key_order_catches_a_position_dependence() -> None:
    with pytest.raises(AssertionError):
        properties.ignores_key_order(FULL, with_eager(FULL, band=masks.CAUSAL), CPU)


def test_finiteness_catches_an_unsafe_softmax() -> None:
    def unsafe(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        weights = (q @ k.transpose(-1, -2)).exp()  # no maximum taken off
        return weights / weights.sum(-1, keepdim=True) @ v

    with pytest.raises(AssertionError):
        properties.stays_finite(FULL, unsafe, CPU, grad=False)


def test_zeros_catches_a_blind_row_that_averages() -> None:
    call = Call("softmax", n=30, m=24, causal=True)

    def averaging(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = attention.create("softmax:eager", heads=4, kv_heads=2, head_dim=16, causal=True)(q, k, v)
        return out + (out == 0) * v.mean()

    with pytest.raises(AssertionError):
        properties.gives_zeros_where_nothing_is_seen(call, averaging, CPU, grad=False)


def test_repetition_catches_randomness() -> None:
    with pytest.raises(AssertionError):
        properties.repeats_itself(FULL, lambda q, k, v: with_eager(FULL)(q, k, v) + 1e-6 * torch.rand(1), CPU)
