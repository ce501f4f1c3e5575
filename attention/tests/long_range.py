"""Helpers for the tests of the Long Range Arena's functions: published numbers, gradients, and counts of cost."""
from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import attention
from attention import registry
from attention.testing import inputs
from attention.tests import costs

OUTPUTS = json.loads(Path(__file__).with_name("frozen_long_range.json").read_text())["outputs"]


def spread(shape: tuple[int, ...], phase: float) -> torch.Tensor:
    """Gives numbers between -2 and 2 that never repeat, so no two queries or keys are alike."""
    x = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(x * 0.7 + phase) + torch.cos(x * x * 0.013 + phase)).reshape(shape)


def qkv(n: int, m: int | None = None, *, batch: int = 2, heads: int = 3, head_dim: int = 4) -> list[torch.Tensor]:
    """Builds the q, k and v of the published numbers."""
    lengths = (n, m or n, m or n)
    return [spread((batch, heads, length, head_dim), float(phase)) for phase, length in enumerate(lengths)]


def is_published(case: str, out_BHND: torch.Tensor, error: float = 1e-13) -> None:
    """Asserts that four rows of `out` are those of the authors' code."""
    last = out_BHND.shape[2] - 1
    actual = torch.stack([out_BHND[at] for at in ((0, 0, 0), (0, 1, 7), (1, 2, 19), (1, 0, last))])
    torch.testing.assert_close(actual, torch.tensor(OUTPUTS[case], dtype=torch.float64), rtol=error, atol=error)


def has_right_gradients(name: str, n: int, *, used: str = "qkv", causal: bool = False, **options: Any) -> None:
    """Asserts torch.autograd.gradcheck in float64 for the inputs that are `used` and every learned parameter."""
    q, k, v = inputs(batch=1, heads=2, n=n, head_dim=3, dtype=torch.float64, grad=True)
    module = attention.create(name, heads=2, head_dim=3, seq_len=n, causal=causal, dtype=torch.float64, **options)
    learned = dict(module.named_parameters())

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        by_name = {"q": q, "k": k, "v": v} | dict(zip(used, tensors, strict=False))
        parameters = dict(zip(learned, tensors[len(used):], strict=True))
        return torch.func.functional_call(module, parameters, (by_name["q"], by_name["k"], by_name["v"]))

    leaves = [{"q": q, "k": k, "v": v}[x] for x in used] + [x.detach().requires_grad_() for x in learned.values()]
    assert torch.autograd.gradcheck(call, leaves)


def calling(name: str, n: int, *, head_dim: int = 64, grad: bool = False, **options: Any) -> Callable[[], torch.Tensor]:
    """Gives a call of one head on one sequence in float32."""
    q, k, v = inputs(batch=1, heads=1, n=n, head_dim=head_dim, grad=grad)
    module = attention.create(name, heads=1, head_dim=head_dim, seq_len=n, **options)

    def call() -> torch.Tensor:
        with torch.set_grad_enabled(grad):
            return module(q, k, v)

    return call


def flops(name: str, n: int, **options: Any) -> int:
    return costs.flops(calling(name, n, **options))


def peak_bytes(name: str, n: int, **options: Any) -> int:
    return costs.peak_bytes(calling(name, n, **options))


def registered_flops(function: str, n: int, head_dim: int = 64, causal: bool = False, **options: Any) -> int:
    described = registry.function(function)
    return described.forward_flops(n, n, head_dim, causal, **described.complete(options))


def predicted_over_counted(name: str, n: int, **options: Any) -> float:
    """Divides the variant's own prediction of its peak bytes by the counted bytes."""
    predicted = attention.peak_bytes(name, batch=1, heads=1, n=n, head_dim=64, dtype=torch.float32)
    return predicted / peak_bytes(name, n, **options)
