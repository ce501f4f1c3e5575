"""Recurrent memory: the paper's recurrence step by step, what holds of it, what it costs."""
from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attention
from attention import registry
from attention.tests import cases, costs, properties
from attention.tests.properties import Call

CPU = torch.device("cpu")
BACKENDS = pytest.mark.parametrize("backend", ["eager", "chunked"])


def call(**shape: object) -> Call:
    return Call("recurrent-memory", causal=True, **{"options": {"segment": 16}, **shape})  # type: ignore[arg-type]


def test_oracle_is_the_recurrence_of_the_paper() -> None:
    """Figure 1 and equations 2-4 as a loop over segments with a state."""
    q, k, v = (x[0, 0] for x in cases.waves(n=11))
    gate, segment = torch.tensor(0.7, dtype=torch.float64).sigmoid(), 4
    M, z = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    rows = []
    for s in range(0, 11, segment):
        own = slice(s, s + segment)
        scores = q[own] @ k[own].T / 2
        local = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf).softmax(-1) @ v[own]
        phi_q, phi_k = (torch.nn.functional.elu(x[own]) + 1 for x in (q, k))
        rows.append(local if s == 0 else gate * (phi_q @ M) / (phi_q @ z)[:, None] + (1 - gate) * local)
        M, z = M + phi_k.T @ v[own], z + phi_k.sum(0)
    actual = attention.oracle("recurrent-memory", *(x[:, :1] for x in cases.waves(n=11)), causal=True, segment=4,
                             params={"gate": torch.tensor([0.7], dtype=torch.float64)})[0, 0]
    torch.testing.assert_close(actual, torch.cat(rows), rtol=1e-12, atol=1e-12)


def test_a_segment_of_the_whole_length_is_softmax() -> None:
    q, k, v = cases.waves(n=20)
    torch.testing.assert_close(attention.oracle("recurrent-memory", q, k, v, causal=True, segment=20),
                               attention.oracle("softmax", q, k, v, causal=True), rtol=1e-13, atol=1e-13)


def test_error_falls_as_segments_grow() -> None:
    errors = [cases.mean_square("recurrent-memory", causal=True, segment=segment) for segment in (8, 32, 64, 128)]
    print(f"mean squared error at segments of 8, 32, 64, 128 of 128: {errors}")
    assert all(more > less for more, less in itertools.pairwise(errors))


@BACKENDS
def test_the_contract_of_every_variant(backend: str) -> None:
    """It holds for causal calls, the only ones there are."""
    @settings(max_examples=12)
    @given(n=st.sampled_from([1, 7, 16, 33, 64]), more=st.sampled_from([0, 0, 5, 40]), padded=st.booleans(),
           dtype=st.sampled_from(list(attention.DTYPES.values())), segment=st.sampled_from([1, 16, 64, 300]),
           seed=st.integers(0, 99))
    def is_right(n: int, more: int, padded: bool, dtype: torch.dtype, segment: int, seed: int) -> None:
        one = call(n=n, m=n + more, padded=padded, dtype=dtype, seed=seed, options={"segment": segment})
        properties.is_right(one, one.build(backend), CPU, grad=True)

    is_right()
    for one in (call(n=64, m=64), call(n=17, m=64)):
        properties.is_causal(one, one.build(backend), CPU)
    one = call(n=64, m=64)
    properties.keeps_sequences_and_heads_apart(one, one.build(backend), CPU)
    properties.stays_in_the_hull(one, one.build(backend), CPU)
    properties.repeats_itself(one, one.build(backend), CPU)
    properties.takes_any_strides(one, one.build(backend), CPU)
    properties.gives_zeros_where_nothing_is_seen(call(n=64, m=40), call(n=64, m=40).build(backend), CPU, grad=True)
    for dtype in attention.DTYPES.values():
        one = call(n=64, m=64, dtype=dtype)
        properties.stays_finite(one, one.build(backend), CPU, grad=True)
    one = call(padded=True)
    out = one.run(one.build(backend), *one.inputs(CPU))
    assert (out[-1] == 0).all()
    assert (out[0] != 0).any()


@BACKENDS
def test_gradients_are_the_derivatives(backend: str) -> None:
    assert cases.gradcheck(f"recurrent-memory:{backend}", n=5, m=7, causal=True, padded=True, segment=3)


def test_operations_and_memory_grow_with_n() -> None:
    def operations(n: int) -> int:
        return costs.flops(cases.call_on_meta("recurrent-memory:chunked", n, causal=True))

    def memory(n: int) -> int:
        return costs.peak_bytes(cases.call_on_meta("recurrent-memory:chunked", n, causal=True, grad=True))

    assert costs.exponent(operations) < 1.1
    assert costs.exponent(memory) < 1.1
    described = registry.function("recurrent-memory")
    assert described.forward_flops(1024, 1024, 64, True, segment=256) == operations(1024) / 2


def test_the_state_has_a_fixed_size() -> None:
    """One query against a cache: of all segments before its own it needs D x D + D numbers a head, so a longer cache
    costs no more than the sums over its keys."""
    module = attention.create("recurrent-memory:chunked", heads=2, head_dim=64, causal=True, segment=256, device="meta")

    def operations(m: int) -> int:
        q, k = torch.empty(1, 2, 1, 64, device="meta"), torch.empty(1, 2, m, 64, device="meta")
        return costs.flops(lambda: module(q, k, k))

    assert operations(1024) - operations(512) == 2 * 2 * 512 * 64 * 64


def test_memory_is_at_least_30_percent_below_eager_softmax_from_1024_on() -> None:
    """Study 003's measure of success, counted: forward and backward, float32, two heads of 64."""
    for n in (1024, 2048, 4096):
        dense, chunked = (costs.peak_bytes(cases.call_on_meta(name, n, causal=True, grad=True))
                        for name in ("softmax:eager", "recurrent-memory:chunked"))
        print(f"n={n}: claim at least 30 % less; counted {1 - chunked / dense:.0%} less")
        assert chunked <= 0.7 * dense


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="segment=0 must be a whole number >= 1"):
        attention.create("recurrent-memory:eager", heads=1, head_dim=8, causal=True, segment=0)
    module = attention.create("recurrent-memory:eager", heads=1, head_dim=8)
    with pytest.raises(ValueError, match="it is causal by its nature; pass causal=True"):
        module(*(torch.zeros(1, 1, 4, 8) for _ in range(3)))
