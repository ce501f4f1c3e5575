"""A call may ask any function for values of another width and repeatable gradients; refusals take one line."""
from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch

import attention
from attention import registry
from attention.registry import function
from attention.testing import check, gradients, inputs
from attention.tests.options import fixed

WIDE = [name for name, f in registry.functions().items() if f.values]
ON_CPU = [name for function in WIDE for name in attention.names(function=function, device="cpu")
          if not name.endswith(":flex")]
EXACT = [name for name, f in registry.functions().items() if f.kind == "exact"]


def shape_of(name: str) -> dict[str, Any]:
    """Gives n and m that the function takes."""
    return {"n": 8, "m": 24} if name.startswith("decode") else {"n": 24, "m": 24}


@pytest.mark.parametrize("name", ON_CPU)
def test_values_may_be_of_another_width(name: str) -> None:
    """Multi-head latent attention's 192 and 128, in small; a backend that has one width says so."""
    options = fixed(name.partition(":")[0])
    heads: dict[str, Any] = {"heads": 4, "kv_heads": 2, "head_dim": 24}
    reason = attention.why_not(name, value_dim=16, **heads, **shape_of(name), **options)
    if name == "softmax:sdpa-flash":
        assert reason is not None
        assert "same last dimension" in reason
        return
    if name == "varlen:nested":
        heads["kv_heads"] = 4
        reason = attention.why_not(name, value_dim=16, **heads, **shape_of(name), **options)
    assert reason is None
    module = attention.create(name, value_dim=16, **heads, **options)
    q, k, v = inputs(batch=2, value_dim=16, **heads, **shape_of(name))
    assert module(q, k, v).shape == (*q.shape[:3], 16)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message


@pytest.mark.slow
def test_flex_takes_values_of_another_width() -> None:
    module = attention.create("softmax:flex", heads=4, kv_heads=2, head_dim=32, value_dim=16, causal=True)
    report = check(module, *inputs(batch=1, heads=4, kv_heads=2, n=64, head_dim=32, value_dim=16))
    assert report.ok, report.message


@pytest.mark.parametrize("name", [name for name in ON_CPU if name.startswith("softmax:")])
def test_heads_may_be_256_wide(name: str) -> None:
    module = attention.create(name, heads=2, head_dim=256, causal=True)
    report = check(module, *inputs(batch=1, heads=2, n=16, head_dim=256), grad=True)
    assert report.ok, report.message


def test_wrong_widths_are_refused() -> None:
    module = attention.create("softmax:eager", heads=1, head_dim=8, value_dim=4)
    with pytest.raises(ValueError, match=r"head_dim 8 and value_dim 4$"):
        module(*inputs(batch=1, heads=1, n=3, head_dim=8))
    with pytest.raises(ValueError, match="value_dim=0 must be a whole number >= 1"):
        attention.create("softmax:eager", heads=1, head_dim=8, value_dim=0)
    narrow = next(name for name, f in registry.functions().items() if not f.values)
    with pytest.raises(ValueError, match="takes values as wide as keys; pass value_dim=8"):
        attention.create(f"{narrow}:eager", heads=1, head_dim=8, seq_len=8, value_dim=4, **fixed(narrow))


@pytest.mark.parametrize("name", ON_CPU)
def test_deterministic_gradients_repeat(name: str) -> None:
    options = fixed(name.partition(":")[0])
    assert attention.why_not(name, heads=2, head_dim=16, grad=True, deterministic=True, **shape_of(name),
                             **options) is None
    module = attention.create(name, heads=2, head_dim=16, deterministic=True, **options)
    q, k, v = inputs(batch=2, heads=2, head_dim=16, **shape_of(name))
    once, again = (gradients(module, (q, k, v), torch.ones_like(q)) for _ in range(2))
    for x in once:
        assert torch.equal(once[x], again[x]), x


def test_a_backend_that_scatters_refuses_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    from attention.backends.eager import Eager

    monkeypatch.setattr(Eager, "deterministic_backward", False)
    assert attention.why_not("softmax:eager", deterministic=True) is None  # without gradients nothing scatters
    message = "its backward pass adds gradients in any order, and has no other form; pass deterministic=False"
    assert attention.why_not("softmax:eager", deterministic=True, grad=True) == f"softmax:eager: {message}"
    module = attention.create("softmax:eager", heads=1, head_dim=8, deterministic=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        module(*inputs(batch=1, heads=1, n=3, head_dim=8, grad=True))


@pytest.mark.parametrize(("backend", "switch"), [("sdpa", True), ("sdpa-flash", True), ("sdpa-math", False)])
def test_sdpa_on_a_gpu_needs_the_process_s_switch(backend: str, switch: bool) -> None:
    from attention.backends.base import Case
    from attention.registry import variant

    case = Case("cuda", torch.bfloat16, 4, 4, 64, 8, 64, True, True, False, deterministic=True)
    scatters = variant(f"softmax:{backend}").backend.scatters
    assert (scatters(case) is not None) == switch
    torch.use_deterministic_algorithms(True)
    try:
        assert scatters(case) is None
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", [name for name in attention.names(device="cpu") if name.partition(":")[0] in EXACT
                                  and not name.endswith(":flex")])
def test_exact_variants_have_softmax_s_probabilities(name: str, causal: bool) -> None:
    """One-hot values show each row's probabilities: within 1e-3 of the exact ones, as study 003 asks, in float32."""
    of = function(name.partition(":")[0])
    shape: dict[str, Any] = {"n": 8 if of.name == "decode" else 32, "m": 32}
    q, k, _ = inputs(batch=2, heads=2, head_dim=32, **shape)
    one_hot = torch.eye(32).expand(2, 2, 32, 32)
    if reason := attention.why_not(name, heads=2, head_dim=32, causal=causal, **shape):
        pytest.skip(reason)
    module = attention.create(name, heads=2, head_dim=32, causal=causal)
    weights = module(3 * q, k, one_hot)
    exact = attention.oracle(of.name, 3 * q, k, one_hot, causal=causal)
    assert (weights - exact).abs().max() < 1e-3
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, shape["n"]))


@pytest.mark.parametrize("name", list(registry.functions()))
def test_every_function_refuses_what_does_not_fit(name: str) -> None:
    """Heads that do not divide, mixed dtypes and devices, a mask of another shape: one line, before any kernel."""
    options = fixed(name)
    with pytest.raises(ValueError, match="heads=6 must be a multiple of kv_heads=4"):
        attention.create(f"{name}:eager", heads=6, kv_heads=4, head_dim=16, seq_len=24, **options)
    module = attention.create(f"{name}:eager", heads=2, head_dim=16, seq_len=24, **options)
    q, k, v = inputs(batch=2, heads=2, head_dim=16, **shape_of(name))
    wrong = {"one dtype and one device": ((q, k.double(), v), (q, k, v.to("meta"))),
             "expected bool (2, 24)": ((q, k, v, torch.ones(2, 23, dtype=torch.bool)), (q, k, v, torch.ones(2, 24))),
             "built for 2 query heads": ((q[:, :1], k, v),)}
    for message, calls in wrong.items():
        for call in calls:
            with pytest.raises(ValueError, match=re.escape(message)) as error:
                module(*call)
            assert str(error.value).startswith(f"{name}:eager: ")
            assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax:flex", "varlen:flex"])
def test_flex_runs_compiled_at_every_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense formula that FlexAttention falls back to is taken away: shape after shape is served without it."""
    from torch.nn.attention.flex_attention import flex_attention

    def dense(*args: object, **arguments: object) -> None:
        raise AssertionError("the dense fallback ran")

    monkeypatch.setattr(sys.modules["torch._higher_order_ops.flex_attention"], "math_attention", dense)
    with pytest.raises(AssertionError, match="the dense fallback ran"):
        flex_attention(*inputs(batch=1, heads=2, n=64, head_dim=16))  # as it comes, not compiled
    module = attention.create(name, heads=2, head_dim=16, causal=True)
    for n in (64, 96):
        report = check(module, *inputs(batch=1, heads=2, n=n, head_dim=16))
        assert report.ok, report.message
