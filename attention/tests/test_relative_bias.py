"""T5's bias: transformers' buckets and outputs, a table that learns while masks are kept, its gradient."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention.functions.relative_bias import Bias, bucket, by_distance, distances, oracle_bucket
from attention.testing import Reference, check, inputs
from attention.tests.test_oracles import wave

OPTIONS: dict[str, Any] = {"buckets": 8, "max_distance": 20}
FROZEN = json.loads(Path(__file__).with_name("frozen_relative_bias.json").read_text())


@pytest.mark.parametrize("case", FROZEN["buckets"])
def test_buckets_are_transformers(case: str) -> None:
    buckets, max_distance, mask = case.split()
    expected = [number for number, times in FROZEN["buckets"][case] for _ in range(times)]
    for function in (bucket, oracle_bucket):
        numbers = function(torch.arange(-150, 151), mask == "causal", int(buckets), int(max_distance))
        visible = numbers[:151] if mask == "causal" else numbers  # keys after a causal query are never seen
        assert visible.tolist() == expected[:len(visible)]


@pytest.mark.parametrize("mask", FROZEN["outputs"])
def test_outputs_are_transformers(mask: str) -> None:
    q, k, v = (wave((1, 4, 30, 4), p) for p in (0.0, 1.0, 2.0))
    params, options = {"table": wave((8, 4), 3.0)}, OPTIONS
    out = attention.oracle("relative-bias", q, k, v, causal=mask == "causal", scale=1.0, params=params, **options)
    for (head, position), expected in zip(((0, 0), (1, 7), (3, 29)), FROZEN["outputs"][mask], strict=True):
        torch.testing.assert_close(out[0, head, position], torch.tensor(expected, dtype=torch.float64),
                                   rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(4, 3), (6, 50), (10, 17), (32, 33), (64, 1000), (10, 160)])
def test_logarithms_find_the_buckets_that_whole_numbers_do(buckets: int, max_distance: int, causal: bool) -> None:
    distance = torch.arange(-2 * max_distance, 1 if causal else 2 * max_distance)
    actual = bucket(distance, causal, buckets, max_distance)
    assert torch.equal(actual, oracle_bucket(distance, causal, buckets, max_distance))
    assert actual[0] == (buckets if causal else buckets // 2) - 1


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 8), (8, 3), (1, 1)])
def test_the_whole_matrix_is_what_single_scores_get(n: int, m: int) -> None:
    bias = Bias(by_distance(torch.randn(8, 2), n, m, False, 8, 20), n, m)
    i, j = torch.arange(m - n, m)[:, None], torch.arange(m)[None]
    head = torch.arange(2)[:, None, None]
    assert torch.equal(bias(head, i, j), bias(head, i.expand(n, m), j.expand(n, m)))
    index = j - i + bias.zero
    assert index.min() == 0  # flex's kernels count no index from the end
    assert distances(n, m, i.device)[index].equal(j - i)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_step_of_the_optimiser_shows_at_once(backend: str, grad: bool) -> None:
    """sdpa keeps the matrix of a bias that stays the same; this one must not pass for it, changed in any way."""
    module = attention.create(f"relative-bias:{backend}", heads=2, head_dim=8, causal=True)
    q, k, v = inputs(batch=1, heads=2, n=16, head_dim=8)

    def right() -> None:
        with torch.set_grad_enabled(grad):
            out = module(q, k, v)
        exact = attention.oracle("relative-bias", q, k, v, causal=True, params=module.params)
        torch.testing.assert_close(out.double(), exact.detach() if not grad else exact, rtol=1e-4, atol=1e-5)

    right()
    table = module.params["table"]
    optimiser = torch.optim.SGD(module.parameters(), lr=5.0)
    module(q, k, v).square().sum().backward()
    before = table.detach().clone()
    optimiser.step()
    assert not torch.equal(table, before)
    right()
    table.data.mul_(-3)
    right()
    module.load_state_dict({"table": before + 1.5 * torch.arange(32)[:, None]})
    right()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_two_backward_passes_need_no_step_between(backend: str) -> None:
    module = attention.create(f"relative-bias:{backend}", heads=2, head_dim=8)
    q, k, v = inputs(batch=1, heads=2, n=6, head_dim=8)
    table, gradients = module.params["table"], list[torch.Tensor]()
    for _ in range(2):
        gradients += torch.autograd.grad(module(q, k, v).square().sum(), table)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.slow
def test_flex_reads_the_table_of_the_moment_and_keeps_its_block_mask() -> None:
    module = attention.create("relative-bias:flex", heads=2, head_dim=16, causal=True)
    q, k, v = inputs(batch=1, heads=2, n=32, head_dim=16)
    masks = []
    for shift in (0.0, 3.0):
        with torch.no_grad():
            module.params["table"][:3] += shift
            out = module(q, k, v)
        exact = attention.oracle("relative-bias", q, k, v, causal=True, params=module.params)
        torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)
        masks.append(module._attend.options["block_mask"])  # type: ignore[attr-defined]
    assert masks[0] is masks[1]


def test_the_table_s_gradient_keeps_the_error_rule_in_half_precision() -> None:
    """A number of the table gathers the gradients of thousands of scores: they are summed in float32."""
    q, k, v = inputs(batch=2, heads=2, n=200, head_dim=16, dtype=torch.bfloat16)
    reference = Reference("relative-bias", q, k, v, causal=True)
    exact = reference.exact_gradients["dtable"]
    for backend in ("eager", "sdpa"):
        module = attention.create(f"relative-bias:{backend}", heads=2, head_dim=16, causal=True, dtype=torch.bfloat16)
        report = reference.check(module, grad=True)
        assert report.ok, report.message
        gradient = reference.found(module, grad=True)["dtable"]
        assert (gradient - exact).abs().max() < 0.05 * exact.abs().max()


def test_an_even_table_changes_nothing() -> None:
    q, k, v = inputs(batch=1, heads=2, n=9, head_dim=8, dtype=torch.float64)
    even = {"table": torch.full((32, 2), 0.7, dtype=torch.float64)}
    for causal in (True, False):
        torch.testing.assert_close(attention.oracle("relative-bias", q, k, v, causal=causal, params=even),
                                   attention.oracle("softmax", q, k, v, causal=causal), rtol=1e-12, atol=1e-12)


def test_the_table_starts_as_t5_s() -> None:
    tables = [attention.create("relative-bias:eager", heads=64, head_dim=16, dtype=torch.float64).params["table"]
              for _ in range(2)]
    assert torch.equal(*tables)
    assert tables[0].shape == (32, 64)
    assert tables[0].std().item() == pytest.approx(1024 ** -0.5, rel=0.05)
    assert tables[0].requires_grad


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_gradients_are_the_derivatives(backend: str) -> None:
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=4, m=6, head_dim=3, dtype=torch.float64, grad=True)
    module = attention.create(f"relative-bias:{backend}", heads=2, kv_heads=1, head_dim=3, causal=True, buckets=4,
                              max_distance=5, dtype=torch.float64)

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"table": table}, (q, k, v))

    assert torch.autograd.gradcheck(call, (q, k, v, module.params["table"]))


def test_values_may_be_of_another_width() -> None:
    q, k, v = inputs(batch=1, heads=2, n=7, head_dim=8, value_dim=5)
    report = check(attention.create("relative-bias:sdpa", heads=2, head_dim=8, value_dim=5), q, k, v, grad=True)
    assert report.ok, report.message


@pytest.mark.parametrize(("options", "message"), [
    ({"buckets": 7}, "buckets=7 must be an even number >= 4"),
    ({"buckets": 2}, "buckets=2 must be"),
    ({"buckets": 8.0}, "buckets=8.0 must be"),
    ({"max_distance": 16}, "max_distance=16 must be a whole number > buckets / 2 = 16"),
])
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        attention.create("relative-bias:eager", heads=1, head_dim=8, **options)
