"""Block-sparse masks against the published implementations', and what gathering the blocks costs."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention.functions._gathered import Gather
from attention.functions.block_sparse import PRESETS, Pattern, pairs
from attention.testing import check, inputs
from attention.tests import costs

FROZEN = json.loads(Path(__file__).with_name("frozen_block_sparse.json").read_text())
LENGTHS = (512, 1024, 2048, 4096)


def visible(n: int, causal: bool, **options: Any) -> torch.Tensor:
    """Gives the keys that the oracle sees: with constant scores and one-hot values the output is the weights."""
    q = torch.zeros(1, 1, n, n)
    return attention.oracle("block-sparse", q, q, torch.eye(n)[None, None], causal=causal, **options)[0, 0] > 0


def bits(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


def test_bigbird_is_transformers() -> None:
    """The global and local blocks are theirs, and random ones come on top, as many in each row; theirs are drawn
    from numpy's stream, ours from the seed."""
    always, counts = bits(FROZEN["bigbird"]["always"]), FROZEN["bigbird"]["counts"][0]
    union = torch.zeros_like(always)
    for seed in range(30):
        blocks = visible(48, False, preset="bigbird", block=4, random=2, seed=seed)[::4, ::4]
        assert (blocks | ~always).all()
        assert blocks.sum(-1).tolist() == counts
        union |= blocks
    assert union.all(), "some block is never drawn"


def test_longformer_is_transformers() -> None:
    assert torch.equal(visible(18, False, preset="longformer", block=1, local=3, first=2), bits(FROZEN["longformer"]))


def test_strided_is_sparse_transformers() -> None:
    assert torch.equal(visible(14, True, preset="strided", block=1, local=3, stride=4), bits(FROZEN["strided"]))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_are_blocks(preset: str, causal: bool) -> None:
    """The mask of any block size is the mask of size 1 with each entry repeated; causal, without later keys."""
    options: dict[str, Any] = {"preset": preset, "local": 1, "random": 1}
    fine = visible(11, causal, block=1, **options).repeat_interleave(3, 0).repeat_interleave(3, 1)[:32, :32]
    coarse = visible(32, causal, block=3, **options)
    assert torch.equal(coarse, fine.tril() if causal else fine)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_causal_row_is_the_same_however_many_keys_follow(preset: str) -> None:
    long = visible(60, True, preset=preset, block=4, local=1)
    for n in (17, 40):
        assert torch.equal(visible(n, True, preset=preset, block=4, local=1), long[:n, :n])


def test_the_seed_draws() -> None:
    one, same, other = (Pattern.of(False, preset="bigbird", block=1, seed=seed).layout(64)
                        for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "chunked"])
@pytest.mark.parametrize("causal", [True, False])
def test_all_blocks_are_softmax(backend: str, causal: bool) -> None:
    q, k, v = inputs(batch=1, heads=4, kv_heads=2, n=20, m=33, head_dim=8, dtype=torch.float64)
    module = attention.create(f"block-sparse:{backend}", heads=4, kv_heads=2, head_dim=8, causal=causal, block=4,
                              local=9)
    torch.testing.assert_close(module(q, k, v), attention.oracle("softmax", q, k, v, causal=causal), rtol=1e-12,
                               atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (24, 24), (7, 41), (41, 7), (33, 64)])
@pytest.mark.parametrize("causal", [True, False])
def test_gathering_sees_what_the_mask_shows(n: int, m: int, causal: bool, preset: str) -> None:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=n, m=m, head_dim=8, value_dim=5, dtype=torch.float64)
    keep = torch.rand(2, m, generator=torch.Generator().manual_seed(n)) > 0.4
    for counts in ({}, {"local": 0}, {"first": 2, "random": 2}, {"last": 2, "stride": 3}, {"first": 9}):
        options: dict[str, Any] = {"preset": preset, "block": 4, **counts}
        for mask in (None, keep):
            exact = attention.oracle("block-sparse", q, k, v, causal=causal, key_mask=mask, **options)
            for backend in ("eager", "chunked"):
                module = attention.create(f"block-sparse:{backend}", heads=4, kv_heads=2, head_dim=8, value_dim=5,
                                          causal=causal, **options)
                torch.testing.assert_close(module(q, k, v, mask), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_gathering_is_right_in_half_precision(causal: bool) -> None:
    q, k, v = inputs(batch=1, heads=4, kv_heads=2, n=300, head_dim=32, dtype=torch.bfloat16)
    module = attention.create("block-sparse:chunked", heads=4, kv_heads=2, head_dim=32, causal=causal, block=16)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message


def test_a_block_that_many_gather_loses_no_gradient() -> None:
    """A sum of ones in bfloat16 would stop at 256."""
    x = torch.zeros(1, 1, 2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    Gather.apply(x, torch.tensor([[0] * 300 + [1] * 20])).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0, 0].unique().tolist() == [300]
    assert x.grad[0, 0, 1].unique().tolist() == [20]


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_the_derivatives(causal: bool) -> None:
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=9, m=11, head_dim=2, dtype=torch.float64, grad=True)
    module = attention.create("block-sparse:chunked", heads=2, kv_heads=1, head_dim=2, causal=causal, block=2,
                              random=1)
    assert torch.autograd.gradcheck(module, (q, k, v))


@pytest.mark.parametrize("preset", ["bigbird", "longformer"])
@pytest.mark.parametrize("causal", [True, False])
def test_flops_of_gathering_are_linear_and_little_more_than_the_visible_pairs(preset: str, causal: bool) -> None:
    options: dict[str, Any] = {"preset": preset, "block": 16}
    module = attention.create("block-sparse:chunked", heads=1, head_dim=64, causal=causal, **options)

    def flops(n: int) -> int:
        q = torch.empty(1, 1, n, 64, device="meta")
        return costs.flops(lambda: module.variant.compute(None, q, q, q, causal=causal, scale=1.0, key_mask=None,
                                                          **module.options))

    assert costs.exponent(flops, LENGTHS) < 1.1
    visible = module.variant.function.forward_flops(4096, 4096, 64, causal, **module.options)
    assert visible == 4 * 64 * pairs(4096, 4096, causal, **module.options)
    assert visible <= flops(4096) <= 1.25 * visible
    assert flops(4096) < 0.1 * 4 * 64 * 4096 ** 2


def test_strided_flops_grow_as_n_sqrt_n() -> None:
    def flops(n: int) -> int:
        stride = round((n / 16) ** 0.5)
        return pairs(n, n, True, **{"preset": "strided", "block": 16, "local": stride - 1, "stride": stride, "seed": 0})

    assert 1.35 < costs.exponent(flops, (512, 1024, 2048, 8192)) < 1.55


@pytest.mark.parametrize("causal", [True, False])
def test_memory_of_gathering_is_linear_and_under_eager_s(causal: bool) -> None:
    """Study 003's goal is 30 % less than eager from n = 1024 on, forward and backward."""
    def peak(name: str, n: int) -> int:
        options: dict[str, Any] = {"block": 16} if name != "softmax:eager" else {}
        module = attention.create(name, heads=2, head_dim=16, causal=causal, **options)
        q, k, v = inputs(batch=1, heads=2, n=n, head_dim=16, grad=True)
        module(q, k, v)  # plans are made once
        return costs.peak_bytes(lambda: module(q, k, v).sum().backward())

    assert costs.exponent(lambda n: peak("block-sparse:chunked", n), LENGTHS) < 1.1
    assert peak("block-sparse:chunked", 1024) < 0.7 * peak("softmax:eager", 1024)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("n", [1024, 2048])
def test_predicted_memory_is_near_the_counted(n: int, grad: bool) -> None:
    module = attention.create("block-sparse:chunked", heads=2, head_dim=64)
    q, k, v = inputs(batch=1, heads=2, n=n, head_dim=64, grad=grad)

    def call() -> object:
        out = module(q, k, v)
        return torch.autograd.grad(out.sum(), (q, k, v)) if grad else out

    call()
    predicted = attention.peak_bytes("block-sparse:chunked", batch=1, heads=2, n=n, head_dim=64, dtype=torch.float32,
                                     grad=grad)
    assert 0.6 * costs.peak_bytes(call) < predicted < 1.7 * costs.peak_bytes(call)


@pytest.mark.parametrize(("options", "message"), [
    ({"preset": "bigbrid"}, "preset='bigbrid' must be one of bigbird, longformer, strided"),
    ({"block": 0}, "block=0 must be a whole number >= 1"),
    ({"block": None}, "block=None must be"),
    ({"local": -1}, "local=-1 must be a whole number >= 0"),
    ({"random": 1.5}, "random=1.5 must be"),
    ({"window": 3}, "unknown option 'window'"),
])
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        attention.create("block-sparse:eager", heads=1, head_dim=8, **options)
    assert "\n" not in str(error.value)
