"""FIT's block: what flows where, its latents, and what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

import attention
from attention.functions.fit import size
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["fit:eager", "fit:sdpa"])


def build(name: str, **options: Any) -> attention.Attention:
    return attention.create(name, heads=3, head_dim=4, dtype=torch.float64, **options)


def test_oracle_is_four_attentions_of_a_stock_library() -> None:
    q, k, v = shared.qkv(24)
    latents = shared.spread((3, 2, 4), 5.0)
    cut_q, cut_k, cut_v = (x.unflatten(2, (3, 8)) for x in (q, k, v))
    start = latents[None, :, None].expand(2, -1, 3, -1, -1)
    x = attend(cut_q, cut_k, cut_v)
    kappa, z = attend(start, cut_k, cut_k).flatten(2, 3), attend(start, cut_k, x).flatten(2, 3)
    z = z + attend(kappa, kappa, z)
    out = x + attend(cut_q, kappa.unflatten(2, (3, 2)), z.unflatten(2, (3, 2)))
    actual = attention.oracle("fit", q, k, v, group=8, latents=2, params={"latents": latents})
    torch.testing.assert_close(actual, out.flatten(2, 3), rtol=1e-12, atol=1e-12)


@BACKENDS
def test_one_group_is_softmax_attention_and_what_the_latents_write(name: str) -> None:
    """A single latent that reads evenly holds twice the mean of x, and writes that to every position."""
    q, k, v = shared.qkv(24)
    module = build(name, group=24, latents=1)
    with torch.no_grad():
        module.get_parameter("latents").zero_()
    local = attention.oracle("softmax", q, k, v)
    torch.testing.assert_close(module(q, k, v), local + 2 * local.mean(2, keepdim=True), rtol=1e-12, atol=1e-12)


@BACKENDS
def test_constant_values_come_out_three_times(name: str) -> None:
    """x = 1, z = 1 + 1, out = 1 + 2: every one of the four attentions has weights that sum to one."""
    q, k, v = shared.qkv(30)
    out = build(name, group=8)(q, k, torch.ones_like(v))
    torch.testing.assert_close(out, torch.full_like(out, 3), rtol=1e-12, atol=1e-12)


@BACKENDS
def test_groups_hear_of_one_another(name: str) -> None:
    q, k, v = shared.qkv(32)
    module = build(name, group=8, latents=2)
    before, other = module(q, k, v), v.clone()
    other[:, :, 31] += 1
    assert ((module(q, k, other) - before).abs().amax(-1) > 1e-9).all()


@BACKENDS
def test_the_order_of_groups_does_not_show(name: str) -> None:
    q, k, v = shared.qkv(32)
    order = (torch.tensor([2, 0, 3, 1])[:, None] * 8 + torch.arange(8)).flatten()
    module = build(name, group=8)
    torch.testing.assert_close(module(*(x[:, :, order] for x in (q, k, v))), module(q, k, v)[:, :, order],
                               rtol=1e-12, atol=1e-12)


def test_latents_start_orthogonal_with_length_root_d() -> None:
    one, other = (attention.create("fit:eager", heads=3, head_dim=16).get_parameter("latents") for _ in range(2))
    assert torch.equal(one, other)
    gram = one @ one.mT
    torch.testing.assert_close(gram, 16 * torch.eye(8).expand(3, -1, -1), rtol=1e-5, atol=1e-5)


@BACKENDS
@pytest.mark.parametrize("n", [9, 7], ids=["full", "filled up"])
def test_gradients(name: str, n: int) -> None:
    shared.has_right_gradients(name, n, group=3, latents=2)


def test_flops_and_memory_grow_as_the_paper_says() -> None:
    """n^(4/3) where groups grow as the third root: 64 positions at n = 4096 with 8 latents."""
    assert size(4096, None, 8) == 64
    assert shared.flops("fit:eager", 512) == shared.registered_flops("fit", 512)
    assert exponent(lambda n: shared.flops("fit:eager", n)) < 4 / 3
    assert exponent(lambda n: shared.peak_bytes("fit:eager", n)) < 1.2


def test_memory_is_a_third_below_softmax_s_and_as_predicted() -> None:
    assert shared.peak_bytes("fit:eager", 1024) < 0.7 * shared.peak_bytes("softmax:eager", 1024)
    assert 1 <= shared.predicted_over_counted("fit:eager", 1024) < 2


@pytest.mark.parametrize("options", [{"group": 0}, {"latents": 0}, {"group": 2.5}], ids=str)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=r"^fit: \w+=.* must be a whole number >= 1$"):
        build("fit:eager", **options)


def test_it_has_no_causal_form() -> None:
    with pytest.raises(ValueError, match="no causal form"):
        attention.create("fit:eager", heads=1, head_dim=4, causal=True)
