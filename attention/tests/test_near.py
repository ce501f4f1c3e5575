"""ALiBi that skips: what is left out is as little as it says, whatever q and k are."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attention
from attention.backends import near
from attention.backends.flex import _block_mask
from attention.functions.alibi import slopes as paper
from attention.testing import Reference, inputs

SIZE = 4


def listed(blocks: near.Blocks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bool matrices (B, H, query blocks, key blocks): seen in part and whole, as the query blocks list them and as the
    key blocks do."""
    result = []
    for count, numbers in zip(blocks[::2], blocks[1::2], strict=True):
        valid = torch.arange(numbers.shape[-1]) < count.unsqueeze(-1)
        dense = torch.zeros(numbers.shape, dtype=torch.int32).scatter_add_(-1, numbers.long(), valid.int())
        assert dense.max() <= 1, "a block is listed twice"
        result.append(dense.bool())
    partly, wholly, columns_partly, columns_wholly = result
    return partly, wholly, columns_partly.mT, columns_wholly.mT


def of_blocks(pairs: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Bool (n, m) as (query blocks, key blocks, SIZE², true where there is no such pair)."""
    whole = torch.nn.functional.pad(pairs, (0, -m % SIZE, 0, -n % SIZE))
    return whole.view(-(-n // SIZE), SIZE, -(-m // SIZE), SIZE).transpose(1, 2).flatten(2)


@settings(max_examples=300)
@given(n=st.integers(1, 20), more=st.integers(0, 13), reach=st.integers(0, 40), causal=st.booleans(),
       masked=st.booleans())
def test_the_lists_hold_what_is_near_and_no_more(n: int, more: int, reach: int, causal: bool, masked: bool) -> None:
    m = n + more
    blocks = near.blocks(torch.tensor([[reach]], dtype=torch.int32), n, m, causal=causal, masked=masked, size=SIZE)
    partly, wholly, columns_partly, columns_wholly = (x[0, 0] for x in listed(blocks))
    assert torch.equal(partly, columns_partly)
    assert torch.equal(wholly, columns_wholly)
    assert not (partly & wholly).any()
    keep = partly | wholly
    ago = torch.arange(more, m)[:, None] - torch.arange(m)
    visible = ago >= 0 if causal else torch.ones_like(ago, dtype=torch.bool)
    assert keep[of_blocks((ago.abs() <= reach) & visible, n, m).any(-1)].all(), "something near is left out"
    assert of_blocks((ago.abs() <= reach + SIZE) & visible, n, m).any(-1)[keep].all(), "something far is kept"
    complete = of_blocks(visible, n, m).all(-1)
    assert torch.equal(wholly, keep & complete & (not masked)), "whole are the blocks with nothing to hide"


@st.composite
def adversaries(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and slopes: random lengths, some tokens far longer than others, keys that point along or against queries."""
    heads, groups = draw(st.sampled_from([(1, 1), (4, 2), (3, 3)]))
    n = draw(st.integers(1, 90))
    q, k, _ = inputs(batch=2, heads=heads, kv_heads=groups, n=n, m=n + draw(st.sampled_from([0, 0, 7])), head_dim=4,
                     dtype=draw(st.sampled_from([torch.bfloat16, torch.float32])), seed=draw(st.integers(0, 99)))
    for x in (q, k):
        for _ in range(draw(st.integers(0, 3))):
            x[:, :, draw(st.integers(0, x.shape[2] - 1))] *= draw(st.sampled_from([0.0, -1.0, 3.0, 20.0]))
    if draw(st.booleans()):  # far keys along the queries, own keys against them
        k[:, :, :n // 2] = q[:, :groups, -1:].abs() * draw(st.sampled_from([0.5, 2.0]))
        k[:, :, -1] = -k[:, :, 0]
    slopes = draw(st.lists(st.sampled_from([1e-6, 0.004, 0.1, 0.5, 1.0, 4.0]), min_size=heads, max_size=heads))
    return q, k, torch.tensor(slopes)


@settings(max_examples=150)
@given(adversaries(), st.booleans(), st.sampled_from([0.3, 1.0, -0.5]))
def test_no_row_and_no_column_loses_more_than_the_bound(case: tuple[torch.Tensor, ...], causal: bool,
                                                        scale: float) -> None:
    """The weight of what is left out, in float64, of each query and of each key."""
    q, k, slopes = case
    n, m = q.shape[2], k.shape[2]
    result = near.reach(q, k, slopes, scale=scale, causal=causal)
    partly, wholly, _, _ = listed(near.blocks(result, n, m, causal=causal, size=SIZE))
    keep = (partly | wholly).repeat_interleave(SIZE, 2).repeat_interleave(SIZE, 3)[:, :, :n, :m]
    ago = torch.arange(m - n, m)[:, None] - torch.arange(m)
    keys = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    score = scale * (q.double() @ keys.mT) - slopes.double()[:, None, None] * ago.abs()
    weight = (score.masked_fill(ago < 0, -torch.inf) if causal else score).softmax(-1)
    lost = weight.masked_fill(keep, 0)
    assert lost.sum(-1).max() <= near.tolerance(q.dtype)
    assert lost.sum(-2).max() <= near.tolerance(q.dtype)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("slope", [0.05, 0.1, 0.5])
def test_the_worst_keys_come_close_to_the_bound(slope: float, causal: bool) -> None:
    """Keys beyond reach lie along the query, all others against it: what is left out is then nearly what may be."""
    n, size = 4001, 20.0 ** 0.5
    q, k = torch.full((1, 1, n, 1), size), torch.full((1, 1, n, 1), -size)
    k[0, 0, 0] = size
    reach = near.reach(q, k, torch.tensor([slope]), scale=1.0, causal=causal).item()
    at = n - 1 if causal else n // 2
    ago = (at - torch.arange(n)).abs()
    k[0, 0, ago > reach] = size
    weight = ((q[0, 0, at] * k[0, 0, :, 0]).double() - slope * ago).softmax(-1)
    lost = weight[ago > reach].sum() / weight[at]  # of the query's own key, which is less than of the whole row
    assert near.tolerance(torch.float32) / 10 < lost <= near.tolerance(torch.float32)


def test_the_bound_is_a_32nd_of_eps() -> None:
    assert near.tolerance(torch.bfloat16) == 2.0 ** -12 < 2.5e-4
    assert near.tolerance(torch.float16) == 2.0 ** -15


def kept_share(heads: int, n: int, slopes: list[float] | None = None) -> torch.Tensor:
    """The share of causal pairs of blocks that each head computes, on standard normal inputs with 64 channels."""
    q, k, _ = inputs(batch=1, heads=heads, n=n, head_dim=64, dtype=torch.bfloat16)
    blocks = near.select(q, k, torch.tensor(slopes or paper(heads)), 64 ** -0.5, True)
    count = n // near.SIZE
    return (blocks.kv_count + blocks.full_kv_count).sum(-1)[0] / (count * (count + 1) / 2)


def test_the_papers_slopes_leave_out_most_of_a_long_sequence() -> None:
    share = kept_share(16, 4096)
    assert (share.diff() >= 0).all(), "a smaller slope keeps more"
    assert share.mean() < 0.6
    assert share[-1] == 1


@pytest.mark.parametrize("slope", [1e-3, 0.0, -0.1, math.nan])
def test_small_slopes_and_odd_ones_skip_nothing(slope: float) -> None:
    assert (kept_share(1, 1024, [slope]) == 1).all()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_none_skip_nothing(value: float) -> None:
    q, k, _ = inputs(batch=1, heads=1, n=64, head_dim=8)
    k[0, 0, 3, 3] = value
    assert near.reach(q, k, torch.tensor([4.0]), scale=1.0, causal=True).item() == 128


def test_a_sequence_whose_queries_lose_their_own_keys_skips_nothing() -> None:
    q, k, _ = inputs(batch=2, heads=1, n=64, head_dim=8)
    keep = torch.ones(2, 64, dtype=torch.bool)
    keep[0, 50:] = False
    result = near.reach(q, k, torch.tensor([4.0]), scale=0.1, causal=True, key_mask=keep)
    assert result[0].item() == 128
    assert result[1].item() < 20


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("n", [pytest.param(512, marks=pytest.mark.slow), 700])
def test_output_and_gradients_under_the_block_mask_are_right(n: int, kv_heads: int, causal: bool) -> None:
    """The mask that flex is given, made dense: FlexAttention has no backward pass on the CPU."""
    q, k, v = inputs(batch=2, heads=4, kv_heads=kv_heads, n=n, head_dim=32, dtype=torch.bfloat16)
    slopes = torch.tensor(paper(4))
    blocks = near.select(q, k, slopes, 32 ** -0.5, causal)
    mask = _block_mask(n, n, blocks, (lambda b, h, i, j: j <= i) if causal else None)
    dense = mask.to_dense().repeat_interleave(near.SIZE, 2).repeat_interleave(near.SIZE, 3)[:, :, :n, :n].bool()
    ago = torch.arange(n)[:, None] - torch.arange(n)
    assert not dense.all(), "nothing is skipped"

    def skipping(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = (x.float().repeat_interleave(4 // kv_heads, 1) for x in (k, v))
        score = 32 ** -0.5 * (q.float() @ keys.mT) - slopes[:, None, None] * ago.abs()
        score = score.masked_fill(~(dense & (ago >= 0) if causal else dense), -torch.inf)
        return (score.softmax(-1) @ values).to(q.dtype)

    report = Reference("alibi", q, k, v, causal=causal).check(skipping, grad=True)
    assert report.ok, report.message


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "causal", "padded"), [
    (700, 700, True, False), (700, 700, False, False), (512, 512, True, True), (300, 700, True, False),
    (1, 700, True, False)])
def test_flex_skips_and_stays_right(n: int, m: int, causal: bool, padded: bool) -> None:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=n, m=m, head_dim=16)
    keep = torch.rand(2, m, generator=torch.Generator().manual_seed(0)) > 0.3 if padded else None
    if keep is not None:
        keep[1] = True
    module = attention.create("alibi:flex", heads=4, kv_heads=2, head_dim=16, causal=causal)
    report = Reference("alibi", q, k, v, causal=causal, key_mask=keep).check(module)
    assert report.ok, report.message


@pytest.mark.slow
def test_one_module_skips_anew_at_each_call() -> None:
    """Larger queries reach further: the second call must not use the blocks of the first."""
    module = attention.create("alibi:flex", heads=2, head_dim=16, causal=True)
    for size in (0.1, 30.0, 0.1):
        q, k, v = inputs(batch=1, heads=2, n=700, head_dim=16)
        report = Reference("alibi", q * size, k, v, causal=True).check(lambda *x: module(*x), grad=False)
        assert report.ok, report.message
