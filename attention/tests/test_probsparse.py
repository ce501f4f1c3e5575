"""ProbSparse attention: the authors' numbers, which queries attend, and what it costs."""
from __future__ import annotations

import pytest
import torch

import attention
from attention.functions.probsparse import count
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["probsparse:eager", "probsparse:chunked"])


def test_oracle_gives_the_authors_numbers() -> None:
    q, k, v = shared.qkv(40)
    shared.is_published("probsparse full", attention.oracle("probsparse", q, k, v, factor=3))
    shared.is_published("probsparse masked", attention.oracle("probsparse", q, k, v, factor=3, masked=True))
    _, k, v = shared.qkv(25)
    shared.is_published("probsparse cross", attention.oracle("probsparse", q, k, v, factor=2, seed=5))


@BACKENDS
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_it_is_softmax_attention_where_all_queries_attend(name: str, masked: bool) -> None:
    q, k, v = shared.qkv(40)
    module = attention.create(name, heads=3, head_dim=4, dtype=torch.float64, factor=100, masked=masked)
    expected = attention.oracle("softmax", q, k, v, causal=masked)
    torch.testing.assert_close(module(q, k, v), expected, rtol=1e-12, atol=1e-12)


@BACKENDS
def test_only_the_chosen_attend(name: str) -> None:
    """All but u = factor ⌈ln n⌉ rows are the mean of the values, and the others are rows of softmax attention."""
    q, k, v = shared.qkv(40)
    out = attention.create(name, heads=3, head_dim=4, dtype=torch.float64, factor=2)(q, k, v)
    lazy = (out - v.mean(2, keepdim=True)).abs().amax(-1) < 1e-12
    attended = (out - attention.oracle("softmax", q, k, v)).abs().amax(-1) < 1e-12
    assert ((~lazy).sum(-1) == count(40, 2)).all()
    assert count(40, 2) == 8
    assert (lazy ^ attended).all()


def test_a_query_unlike_the_others_is_chosen() -> None:
    """One query whose scores are far from uniform among queries without any."""
    q, k, v = torch.zeros(1, 1, 64, 8), *shared.qkv(64, batch=1, heads=1, head_dim=8)[1:]
    q[0, 0, 50] = 5
    out = attention.create("probsparse:chunked", heads=1, head_dim=8, factor=1)(q, k.float(), v.float())
    far = (out - v.float().mean(2, keepdim=True)).abs().amax(-1)[0, 0]
    assert far.argmax() == 50
    assert (far > 1e-5).sum() == 1  # zero queries attend evenly: the mean as well


def test_the_masked_form_lets_later_keys_choose() -> None:
    """Later keys decide whether an earlier query attends, so it is no causal function."""
    q, k, v = shared.qkv(64, batch=1, heads=1)
    module = attention.create("probsparse:chunked", heads=1, head_dim=4, dtype=torch.float64, factor=1, masked=True)
    before = module(q, k, v)
    later = torch.cat([k[:, :, :32], 5 * k[:, :, 32:].flip(2)], 2)
    assert not torch.equal(before[:, :, :32], module(q, later, v)[:, :, :32])
    with pytest.raises(ValueError, match="no causal form"):
        attention.create("probsparse:chunked", heads=1, head_dim=4, causal=True)


def test_the_seed_draws_the_keys() -> None:
    q, k, v = shared.qkv(64)
    one, same, other = (attention.create("probsparse:chunked", heads=3, head_dim=4, dtype=torch.float64, factor=1,
                                         seed=seed)(q, k, v) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.slow
@BACKENDS
def test_it_compiles_into_one_graph(name: str) -> None:
    """The draw is a constant to the compiler."""
    q, k, v = shared.qkv(40)
    module = attention.create(name, heads=3, head_dim=4, dtype=torch.float64)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(q, k, v), module(q, k, v))


@BACKENDS
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_gradients(name: str, masked: bool) -> None:
    shared.has_right_gradients(name, 9, factor=1, masked=masked)


def test_flops_and_memory_grow_as_n_log_n() -> None:
    assert shared.flops("probsparse:chunked", 512) == shared.registered_flops("probsparse", 512)
    assert exponent(lambda n: shared.flops("probsparse:chunked", n)) < 1.2
    assert exponent(lambda n: shared.peak_bytes("probsparse:chunked", n)) < 1.2
    assert exponent(lambda n: shared.flops("probsparse:eager", n)) > 1.9


def test_memory_is_a_third_below_softmax_s_and_as_predicted() -> None:
    for n in (1024, 2048):
        assert shared.peak_bytes("probsparse:chunked", n) < 0.7 * shared.peak_bytes("softmax:eager", n)
        assert 1 <= shared.predicted_over_counted("probsparse:chunked", n) < 2.2


@pytest.mark.parametrize("options", [{"factor": 0}, {"factor": 1.5}, {"seed": -1}, {"masked": 1}], ids=str)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=r"^probsparse: \w+=.* must be .*$"):
        attention.create("probsparse:eager", heads=1, head_dim=4, **options)


def test_the_masked_form_needs_as_many_keys_as_queries() -> None:
    q, k, v = shared.qkv(8, 5)
    with pytest.raises(ValueError, match="masked=True needs as many keys as queries: n=8, m=5"):
        attention.create("probsparse:eager", heads=3, head_dim=4, dtype=torch.float64, masked=True)(q, k, v)
