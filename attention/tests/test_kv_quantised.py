"""The quantised cache: numbers by hand, bytes counted, error against bits, stairs, straight-through gradients."""
from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import attention
from attention.functions.kv_quantised import Cache, Packed
from attention.testing import inputs
from attention.tests import costs


def test_numbers_by_hand() -> None:
    """lo = -1, hi = 2, a step of 0.2: 0.1 lies half-way between 5 and 6 steps and goes to the even one."""
    x = torch.tensor([-1.0, 2.0, 0.0, -0.91, 0.35, 1.97]).double()
    packed = Packed(x, 4, 6)
    assert packed.codes.tolist() == [0 | 15 << 4, 5 | 0 << 4, 7 | 15 << 4]
    torch.testing.assert_close(packed.unpack(), torch.tensor([-1, 2, 0, -1, 0.4, 2]).double())
    halves = torch.tensor([0.0, 15, 0.5, 1.5, 2.5, 3.5])
    assert Packed(halves, 4, 6).unpack().tolist() == [0, 15, 0, 2, 2, 4]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("width", "group"), [(64, 64), (64, 16), (59, 16), (7, 64), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_nothing_is_further_off_than_half_a_step(bits: int, width: int, group: int, dtype: torch.dtype) -> None:
    x = 5 * inputs(batch=2, heads=3, n=11, head_dim=width, dtype=dtype)[0]
    packed = Packed(x, bits, group)
    steps = packed.step.repeat_interleave(group, -1).flatten(-2)[..., :width].double()
    allowed = 0.5 * steps * (1 + 1e-6) + torch.finfo(dtype).eps * x.double().abs()
    assert ((packed.unpack().double() - x.double()).abs() <= allowed).all()
    for part in x.split(group, -1):  # the extremes are kept
        lo = part.amin(-1, keepdim=True)
        assert (packed.unpack()[..., :group] == lo).any() or part is not x.split(group, -1)[0]


def test_a_group_of_one_number_is_kept_as_it_is() -> None:
    x = torch.full((1, 1, 3, 32), -0.3, dtype=torch.bfloat16)
    assert torch.equal(Packed(x, 4, 16).unpack(), x)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.3), (8, 0.55)])
@pytest.mark.parametrize("width", [64, 128])
def test_bytes_are_counted(bits: int, share: float, width: int) -> None:
    """A byte for two codes of 4 bits, and 2 + 4 bytes a group of 64 for lo and step."""
    x = inputs(batch=2, heads=4, n=256, head_dim=width, dtype=torch.bfloat16)[0]
    packed = Packed(x, bits, 64)
    assert packed.nbytes == 2 * 4 * 256 * (width * bits // 8 + 6 * width // 64)
    assert packed.nbytes <= share * x.nbytes
    assert costs.peak_bytes(lambda: packed.unpack()) >= x.nbytes


def test_a_staircase_costs_what_its_stairs_cost() -> None:
    x = inputs(batch=1, heads=2, n=100, head_dim=64, dtype=torch.bfloat16)[0]
    cache = Cache(x, 4, 64, 10)
    assert cache.nbytes == 2 * (80 * 38 + 10 * 70 + 10 * 128)
    error = (cache.unpack() - x).abs().amax((0, 1, 3))
    assert (error[90:] == 0).all()
    assert 0 < error[80:90].max() < error[:80].min()
    assert torch.equal(Cache(x, 4, 64, 200).unpack(), x)


def test_error_to_softmax_falls_with_bits_and_with_smaller_groups_and_longer_stairs() -> None:
    q, k, v = inputs(batch=1, heads=4, n=128, head_dim=64)
    exact = attention.oracle("softmax", q, k, v, causal=True)

    def error(**options: Any) -> float:
        out = attention.oracle("kv-quantised", q, k, v, causal=True, **options)
        return (out - exact).square().mean().sqrt().item()

    assert error(bits=8) < 0.1 * error(bits=4) < 0.02
    assert error(group=8) < error(group=16) < error(group=64)
    assert error(stairs=64) < error(stairs=32) < error(stairs=0)
    assert error(stairs=128) < 1e-15


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_the_oracle_s(backend: str, dtype: torch.dtype) -> None:
    """One key, so the output is the value as it was kept: another code would be a whole step off."""
    for seed in range(5):
        q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=1, head_dim=64, dtype=dtype, seed=seed)
        module = attention.create(f"kv-quantised:{backend}", heads=4, kv_heads=2, head_dim=64)
        exact = attention.oracle("kv-quantised", q, k, v)
        assert (module(q, k, v).double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps * v.abs().max()


@pytest.mark.parametrize("backend", ["eager", "sdpa", "oracle"])
def test_gradients_pass_straight_through(backend: str) -> None:
    """They are softmax's at the rounded keys and values."""
    q, k, v = inputs(batch=1, heads=2, n=9, head_dim=8, dtype=torch.float64, grad=True)
    options: dict[str, Any] = {"causal": True, "group": 4, "stairs": 2}
    if backend == "oracle":
        out = attention.oracle("kv-quantised", q, k, v, **options)
    else:
        out = attention.create(f"kv-quantised:{backend}", heads=2, head_dim=8, **options)(q, k, v)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    rounded = [q, *(Cache(x, 4, 4, 2).unpack().requires_grad_() for x in (k, v))]
    expected = torch.autograd.grad(attention.oracle("softmax", *rounded, causal=True).square().sum(), rounded)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_of_queries_and_of_unrounded_tokens_are_the_derivatives() -> None:
    """The others' are not, by design."""
    q, k, v = inputs(batch=1, heads=2, n=4, m=6, head_dim=4, dtype=torch.float64, grad=True)
    module = attention.create("kv-quantised:eager", heads=2, head_dim=4, causal=True, stairs=3)
    old_k, old_v = k[:, :, :3].detach(), v[:, :, :3].detach()

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return module(q, torch.cat([old_k, k], 2), torch.cat([old_v, v], 2))

    newest = (x[:, :, 3:].detach().requires_grad_() for x in (k, v))
    assert torch.autograd.gradcheck(call, (q, *newest))


@pytest.mark.parametrize(("options", "message"), [
    ({"bits": 3}, "bits=3 must be 4 or 8"),
    ({"bits": 8.0}, "bits=8.0 must be 4 or 8"),
    ({"group": 0}, "group=0 must be a whole number >= 1"),
    ({"stairs": -1}, "stairs=-1 must be a whole number >= 0"),
])
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        attention.oracle("kv-quantised", *inputs(batch=1, heads=1, n=2, head_dim=4), **options)
