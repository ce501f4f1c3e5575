"""Helpers for the tests of single functions: fixed inputs with frozen outputs, and calls whose cost can be counted."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import attention
from attention.testing import inputs


def wave(shape: tuple[int, ...], phase: float) -> torch.Tensor:
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(numbers * 0.7 + phase).reshape(shape) * 2


def waves(heads: int = 2, n: int = 6, head_dim: int = 4) -> list[torch.Tensor]:
    """Builds the q, k and v of the frozen outputs."""
    return [wave((1, heads, n, head_dim), phase) for phase in (0.0, 1.0, 2.0)]


def is_frozen(out: torch.Tensor, rows: list[list[float]], tolerance: float = 1e-13) -> None:
    """Asserts the first row of the first head and the last row of the last head of `out` (1, 2, 6, 4)."""
    torch.testing.assert_close(torch.stack([out[0, 0, 0], out[0, 1, 5]]), torch.tensor(rows, dtype=torch.float64),
                               rtol=tolerance, atol=tolerance)


def call_on_meta(name: str, n: int, *, causal: bool = False, grad: bool = False, heads: int = 2, head_dim: int = 64,
                 dtype: torch.dtype = torch.float32, **options: Any) -> Callable[[], object]:
    """Gives a call of a variant on tensors without data, with `grad` also backward, to count its FLOPs and bytes."""
    module = attention.create(name, heads=heads, head_dim=head_dim, seq_len=n, causal=causal, device="meta",
                              dtype=dtype, **options)
    q, k, v = inputs(batch=1, heads=heads, n=n, head_dim=head_dim, dtype=dtype, device="cpu")
    q, k, v = (x.to("meta").requires_grad_(grad) for x in (q, k, v))

    def call() -> object:
        with torch.set_grad_enabled(grad):
            out = module(q, k, v)
            return torch.autograd.grad(out, (q, k, v), torch.empty_like(out)) if grad else out

    call()  # the probe runs here, not in the count
    return call


def gradcheck(name: str, *, n: int = 5, m: int | None = None, heads: int = 2, kv_heads: int = 1, head_dim: int = 2,
              causal: bool = False, padded: bool = False, **options: Any) -> bool:
    """Runs torch.autograd.gradcheck in float64 for q, k, v and every learned parameter."""
    module = attention.create(name, heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq_len=m or n, causal=causal,
                              dtype=torch.float64, **options)
    q, k, v = inputs(batch=1, heads=heads, kv_heads=kv_heads, n=n, m=m, head_dim=head_dim, dtype=torch.float64)
    keep = torch.rand(1, m or n, generator=torch.Generator().manual_seed(0)) > 0.3 if padded else None
    learned = dict(module.named_parameters())

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(learned, values, strict=True)), (q, k, v, keep))

    leaves = [x.detach().requires_grad_() for x in (q, k, v, *learned.values())]
    return torch.autograd.gradcheck(call, leaves)


def mean_square(name: str, *, n: int = 128, heads: int = 2, head_dim: int = 16, causal: bool = False,
                scale: float | None = None, **options: Any) -> float:
    """Computes the mean squared difference between a function and softmax attention on standard normal inputs."""
    q, k, v = inputs(batch=1, heads=heads, n=n, head_dim=head_dim, dtype=torch.float64)
    actual = attention.oracle(name, q, k, v, causal=causal, scale=scale, **options)
    return (actual - attention.oracle("softmax", q, k, v, causal=causal, scale=scale)).square().mean().item()
