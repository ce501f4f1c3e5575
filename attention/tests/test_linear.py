"""Linear attention: the authors' numbers, what holds of it, what it costs."""
from __future__ import annotations

from typing import Any

import pytest
import torch

import attention
from attention import registry
from attention.functions import _linear
from attention.testing import check, inputs
from attention.tests import cases, costs

# github.com/idiap/fast-transformers at 2ad36b9, fast_transformers/attention/linear_attention.py, with its eps at 0.
FULL = [[1.2425188951621788, 1.078538558129824, 0.40730468457916713, -0.4554909464403258],
        [0.8017139887049086, 0.8143834464681778, 0.4440356442650939, -0.1351490596841967]]
PADDED = [[1.491283439109633, 1.0439304693137579, 0.10560068793608175, -0.8823947470341985],
          [0.44035339191446665, 0.5210030154006412, 0.3566167798472117, 0.024508100440745004]]
WAYS = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def test_oracle_gives_the_authors_numbers() -> None:
    cases.is_frozen(attention.oracle("linear", *cases.waves()), FULL)
    keep = torch.tensor([[True] * 4 + [False] * 2])
    cases.is_frozen(attention.oracle("linear", *cases.waves(), key_mask=keep), PADDED)


def test_the_last_causal_query_sees_what_it_sees_without_order() -> None:
    cases.is_frozen(attention.oracle("linear", *cases.waves(), causal=True)[:, :, [5] * 6], [
        attention.oracle("linear", *cases.waves())[0, 0, 5].tolist(), FULL[1]])


def test_it_is_a_recurrent_network() -> None:
    """Section 3.4: a state of fixed size, one step a token, gives the causal output."""
    q, k, v = (x[0, 0] for x in cases.waves(n=20))
    def phi(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.elu(x) + 1

    state, total = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    steps = []
    for i in range(20):
        state, total = state + torch.outer(phi(k[i]), v[i]), total + phi(k[i])
        steps.append(phi(q[i]) @ state / (phi(q[i]) @ total))
    whole = attention.oracle("linear", *cases.waves(n=20), causal=True)[0, 0]
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-12, atol=1e-12)


def test_a_scale_of_the_kernel_cancels() -> None:
    assert torch.equal(attention.oracle("linear", *cases.waves(), scale=7.0),
                       attention.oracle("linear", *cases.waves()))


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("function", ["linear", "performer"])
@pytest.mark.parametrize(("n", "m"), [(23, 23), (9, 31), (1, 31)])
def test_chunks_do_not_show(function: str, chunk: int, n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "CHUNK", chunk)
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=n, m=m, head_dim=8)
    keep = torch.rand(2, m, generator=torch.Generator().manual_seed(0)) > 0.3
    options: dict[str, Any] = {"features": 8} if function == "performer" else {}
    module = attention.create(f"{function}:chunked", heads=4, kv_heads=2, head_dim=8, causal=True, **options)
    report = check(module, q, k, v, grad=True, key_mask=keep)
    assert report.ok, report.message


@WAYS
@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_gradients_are_the_derivatives(backend: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "CHUNK", 2)
    assert cases.gradcheck(f"linear:{backend}", n=5, m=7, causal=causal, padded=True)


@WAYS
def test_operations_and_memory_grow_with_n(causal: bool) -> None:
    def operations(n: int) -> int:
        return costs.flops(cases.call_on_meta("linear:chunked", n, causal=causal))

    def memory(n: int) -> int:
        return costs.peak_bytes(cases.call_on_meta("linear:chunked", n, causal=causal, grad=True))

    assert costs.exponent(operations) < 1.1
    assert costs.exponent(memory) < 1.1
    assert costs.exponent(lambda n: costs.flops(cases.call_on_meta("linear:eager", n, causal=causal))) > 1.9


@WAYS
def test_the_formula_counts_what_is_counted(causal: bool) -> None:
    counted = costs.flops(cases.call_on_meta("linear:chunked", 1024, causal=causal)) / 2
    assert registry.function("linear").forward_flops(1024, 1024, 64, causal) == counted


def test_the_formula_by_hand() -> None:
    """n = m = 256 and D = 64, causal: sums 2·64·64·(256 + 128) + 2·64·256, chunks 2·256·128·128."""
    assert registry.function("linear").forward_flops(256, 256, 64, True) == 3_145_728 + 32_768 + 8_388_608


def test_memory_is_at_least_30_percent_below_eager_softmax_from_1024_on() -> None:
    """Study 003's measure of success, counted: forward and backward, float32, two heads of 64."""
    for n in (1024, 2048, 4096):
        dense, chunked = (costs.peak_bytes(cases.call_on_meta(name, n, causal=True, grad=True))
                        for name in ("softmax:eager", "linear:chunked"))
        print(f"n={n}: claim at least 30 % less; counted {1 - chunked / dense:.0%} less")
        assert chunked <= 0.7 * dense


def test_prediction_of_memory_is_of_the_size_of_the_count() -> None:
    for causal in (False, True):
        counted = costs.peak_bytes(cases.call_on_meta("linear:chunked", 4096, causal=causal))
        predicted = attention.peak_bytes("linear:chunked", batch=1, heads=2, n=4096, head_dim=64, dtype=torch.float32)
        assert 0.3 < counted / predicted < 4
