"""prefix-softmax: the scan, the stream and the formula are one function."""
from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention.functions import prefix_softmax
from attention.functions.prefix_softmax import Prefix, Stream, combine, prefixes
from attention.registry import function, variant
from attention.testing import inputs
from attention.tests import costs


def scan(**shape: object) -> attention.Attention:
    return attention.create("prefix-softmax:scan", causal=True, **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 31, 64])
def test_every_prefix_is_stock_attention_over_it(n: int) -> None:
    """No code of the authors is public: torch's attention of the learned query on each prefix stands in."""
    module = scan(heads=4, kv_heads=2, head_dim=8, dtype=torch.float64)
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=n, head_dim=8, dtype=torch.float64)
    query = module.params["query_HD"][None, :, None, :].expand(2, -1, -1, -1)
    expected = torch.cat([scaled_dot_product_attention(query, k[:, :, :i], v[:, :, :i], enable_gqa=True)
                          for i in range(1, n + 1)], 2)
    torch.testing.assert_close(module(q, k, v), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention.oracle("prefix-softmax", q, k, v, causal=True), expected,
                               rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spread", [1, 300])
def test_the_stream_gives_what_the_scan_gives(spread: int) -> None:
    """Token by token, from a state whose size does not grow; scores in the thousands, rising, too."""
    module = scan(heads=4, kv_heads=2, head_dim=8, dtype=torch.float64)
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=40, head_dim=8, dtype=torch.float64)
    k = k * spread
    stream = Stream(module.params["query_HD"].detach())
    outs, sizes = [], set()
    for i in range(40):
        outs.append(stream.step(k[:, :, i], v[:, :, i]))
        assert stream.state is not None
        sizes.add(sum(x.numel() for x in stream.state))
    assert sizes == {2 * 4 * (8 + 2)}
    torch.testing.assert_close(torch.stack(outs, 2), module(q, k, v).detach(), rtol=1e-11, atol=1e-12)


def test_combining_is_associative() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (Prefix(torch.randn(1, 1, 5, generator=generator) * 100, torch.rand(1, 1, 5, generator=generator),
                      torch.randn(1, 1, 5, 3, generator=generator)) for _ in range(3))
    for one, other in zip(combine(combine(a, b), c), combine(a, combine(b, c)), strict=True):
        torch.testing.assert_close(one, other)


def test_the_scan_takes_a_logarithm_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def counted(one: Prefix, other: Prefix) -> Prefix:
        steps.append(one.top.shape[2])
        return combine(one, other)

    monkeypatch.setattr(prefix_softmax, "combine", counted)
    for n in (512, 4096):
        steps.clear()
        one = torch.zeros(1, 1, n)
        last = prefixes(Prefix(one, one + 1, one.unsqueeze(-1)))
        assert last.total[0, 0].tolist() == list(range(1, n + 1))
        assert len(steps) <= 2 * math.log2(n)
        assert sum(steps) <= 2 * n


def test_without_causality_all_outputs_are_the_last() -> None:
    q, k, v = inputs(batch=2, heads=2, n=9, head_dim=8, dtype=torch.float64)
    shape = {"heads": 2, "head_dim": 8, "dtype": torch.float64}
    whole = attention.create("prefix-softmax:scan", **shape)(q, k, v)  # type: ignore[arg-type]
    torch.testing.assert_close(whole, scan(**shape)(q, k, v)[:, :, -1:].expand_as(whole), rtol=1e-12, atol=1e-12)


def test_q_gives_the_shape_only() -> None:
    q, k, v = inputs(batch=1, heads=2, n=6, head_dim=8)
    module = scan(heads=2, head_dim=8)
    assert torch.equal(module(q, k, v), module(q * torch.nan, k, v))


def test_gradients_are_the_derivatives() -> None:
    module = scan(heads=2, kv_heads=1, head_dim=3, dtype=torch.float64)
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=5, m=7, head_dim=3, dtype=torch.float64)
    keep = torch.tensor([[False, True, True, False, True, True, True]])
    query = module.params["query_HD"].detach().clone().requires_grad_()

    def call(query: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"query_HD": query}, (q, k, v, keep))

    assert torch.autograd.gradcheck(call, (query, k.requires_grad_(), v.requires_grad_()))


def test_time_and_memory_grow_with_n() -> None:
    def bytes_of(n: int) -> int:
        module = scan(heads=2, head_dim=32)
        q, k, v = inputs(batch=1, heads=2, n=n, head_dim=32, grad=True)
        return costs.peak_bytes(lambda: module(q, k, v).sum().backward())

    assert costs.exponent(bytes_of) < 1.1
    eager = variant("prefix-softmax:eager").peak_bytes
    predicted = variant("prefix-softmax:scan").peak_bytes
    case = attention.registry.Case("cpu", torch.float32, 2, 2, 32, 4096, 4096, True, True, False)
    assert bytes_of(4096) <= predicted(case) <= 2 * bytes_of(4096)
    assert predicted(case) < 0.7 * eager(case)
    counted = function("prefix-softmax").forward_flops
    assert counted(4, 4, 8, True) == 4 * 2 * 8 + 8 * 3 * 9  # by hand: 4 scores, 8 combinations 9 wide
    assert costs.exponent(lambda n: counted(n, n, 64, True)) < 1.1
