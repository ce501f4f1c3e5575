"""LSH attention: published numbers, what it sees, and what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import attention
from attention.functions.reformer import sorted_positions
from attention.tests import long_range as shared
from attention.tests.costs import exponent

BACKENDS = pytest.mark.parametrize("name", ["reformer:eager", "reformer:chunked"])
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def build(name: str, seq_len: int, causal: bool = False, **options: Any) -> attention.Attention:
    return attention.create(name, heads=3, head_dim=4, seq_len=seq_len, causal=causal, dtype=torch.float64, **options)


@CAUSAL
def test_oracle_gives_the_published_numbers(causal: bool) -> None:
    """Some of those tokens are alone; there the published code rounds at e^-50000, so 1e-11 and not less."""
    q, _, v = shared.qkv(32)
    out = attention.oracle("reformer", q, q, v, causal=causal, chunk=4, rounds=2,
                           params={"rotations": shared.spread((4, 2, 4), 3.0)})
    shared.is_published("reformer causal" if causal else "reformer full", out, error=1e-11)


@BACKENDS
@CAUSAL
@pytest.mark.parametrize(("chunk", "rounds"), [(32, 1), (16, 1), (32, 3)], ids=["chunk", "two chunks", "rounds"])
def test_where_all_is_seen_it_is_softmax_attention_without_oneself(name: str, causal: bool, chunk: int,
                                                                  rounds: int) -> None:
    """One chunk holds everything, and so does a chunk with the one before it; with keys q / |q|."""
    q, k, v = shared.qkv(32)
    others = ~torch.eye(32, dtype=torch.bool)
    if causal:
        others = others.tril()
        others[0, 0] = True  # alone, it sees itself
    expected = torch.nn.functional.scaled_dot_product_attention(q, normalize(q, dim=-1), v, attn_mask=others)
    out = build(name, 32, causal, chunk=chunk, rounds=rounds)(q, k, v)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@BACKENDS
def test_keys_never_show(name: str) -> None:
    q, k, v = shared.qkv(32)
    module = build(name, 32, chunk=4)
    assert torch.equal(module(q, k, v), module(q, -k, v))


def test_like_vectors_share_a_bucket() -> None:
    """Two far clusters, interleaved: sorted by bucket, no cluster is cut by the other."""
    cluster = torch.arange(64) % 2
    q = torch.where(cluster[:, None] == 0, 1.0, -1.0) + 0.01 * shared.spread((64, 8), 0.0)
    places = sorted_positions(q[None, None], shared.spread((8, 1, 2), 3.0))[0, 0, 0]
    assert (cluster[places].diff() != 0).sum() == 1


def test_more_rounds_come_nearer_to_softmax_attention() -> None:
    """The comparison has shared keys and no position sees itself; the mean error falls with more rounds."""
    q, k, v = shared.qkv(128, head_dim=4)
    whole = build("reformer:chunked", 128, chunk=128, rounds=1)(q, k, v)
    errors = [(build("reformer:chunked", 128, chunk=8, rounds=rounds)(q, k, v) - whole).square().mean().item()
              for rounds in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2]


@BACKENDS
def test_rotations_are_fixed_and_seeded(name: str) -> None:
    assert not list(build(name, 32, chunk=4).parameters())
    one, same, other = (build(name, 32, chunk=4, seed=seed).get_buffer("rotations") for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@BACKENDS
@CAUSAL
def test_gradients(name: str, causal: bool) -> None:
    shared.has_right_gradients(name, 10, used="qv", causal=causal, chunk=4, rounds=2)


def test_flops_and_memory_grow_as_n_log_n() -> None:
    assert shared.flops("reformer:chunked", 512) == shared.registered_flops("reformer", 512)
    assert exponent(lambda n: shared.flops("reformer:chunked", n)) < 1.2
    assert exponent(lambda n: shared.peak_bytes("reformer:chunked", n)) < 1.1
    for name in ("reformer:eager", "reformer:chunked"):
        assert 1 <= shared.predicted_over_counted(name, 1024) < 2


def test_memory_is_a_third_below_softmax_s_from_2048_on() -> None:
    """Claimed from n = 1024 on; there four rounds of chunks of 64 save 25 %."""
    saved = [1 - shared.peak_bytes("reformer:chunked", n) / shared.peak_bytes("softmax:eager", n) for n in (1024, 2048)]
    assert saved[0] == pytest.approx(0.25, abs=0.03)
    assert saved[1] > 0.6


@pytest.mark.parametrize("options", [{"chunk": 0}, {"rounds": 0}, {"seed": -1}], ids=str)
def test_bad_options(options: dict) -> None:
    with pytest.raises(ValueError, match=r"^reformer: \w+=.* must be a whole number >= [01]$"):
        build("reformer:eager", 16, **options)


def test_it_needs_a_length() -> None:
    with pytest.raises(ValueError, match="seq_len=None must be the usual length"):
        attention.create("reformer:eager", heads=1, head_dim=4)
