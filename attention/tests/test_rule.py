"""The rule: what it lets pass, what it refuses and where, and the inputs that it is used with."""
from __future__ import annotations

from typing import Any

import pytest
import torch

import attention
from attention import masks, registry
from attention.backends.eager import attend as eager_attend
from attention.testing import Reference, Report, check, needles
from attention.testing import reference as references
from attention.testing.rounding import DRAWS, rounded
from attention.testing.rule import LOOSE, ROW, Measure
from attention.testing.score import Shape, outcomes

SHAPE: dict[str, Any] = {"batch": 2, "heads": 4, "kv_heads": 2, "n": 96, "head_dim": 32}
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
PLAIN = [name for name in attention.names(device="cpu") if not registry.variant(name).backend.compiled]


def reference(dtype: torch.dtype = torch.bfloat16, function: str = "softmax", causal: bool = True,
              **options: Any) -> Reference:
    return Reference(function, *needles(**SHAPE, dtype=dtype), causal=causal, **options)


def module(name: str, dtype: torch.dtype, causal: bool = True, **options: Any) -> attention.Attention:
    return attention.create(name, heads=4, kv_heads=2, head_dim=32, causal=causal, dtype=dtype, **options)


@pytest.mark.parametrize("name", PLAIN)
def test_every_variant_is_right_where_each_key_matters(name: str) -> None:
    described = registry.variant(name).function
    options = {x: values[0] for x, values in described.test_values.items()}
    shape = {**SHAPE, "kv_heads": 2 if described.grouped else 4, "n": described.queries or 96, "m": 96}
    call = {"heads": 4, "kv_heads": shape["kv_heads"], "head_dim": 32, "causal": described.causal}
    for dtype in (torch.bfloat16, torch.float32):
        reason = attention.why_not(name, dtype=dtype, n=shape["n"], m=96, grad=True, **call, **options)
        if reason:
            continue
        of = Reference(described.name, *needles(**shape, dtype=dtype), causal=described.causal, **options)
        report = of.check(attention.create(name, seq_len=96, dtype=dtype, **call, **options), grad=True)
        assert report.ok, report.message


def test_a_fault_is_told_with_its_tensor_head_and_rows() -> None:
    of = reference(torch.float32)
    found = of.found(module("softmax:eager", torch.float32), grad=True)
    found["out"][1, 2, 40, 3] += 1
    found["dk"][0, 1] *= 1.01
    report = of.judge("mine", found)
    assert not report.ok
    assert report.message.startswith("mine is numerically wrong: out ")
    assert "in sequence 1, head 2, row 40" in report.message
    assert "dk slope" in report.message
    assert report.places["dk slope"].startswith(" in sequence 0, head 1")
    assert not any(x.startswith(("dq", "dv")) for x in report.errors if report.errors[x] > report.bounds[x])


def test_nan_is_wrong_wherever_it_is() -> None:
    of = reference()
    out = of.found(module("softmax:eager", torch.bfloat16))["out"]
    out[0, 3, 7, 1] = torch.nan
    report = of.judge("mine", {"out": out})
    assert not report.ok
    assert report.worst != report.worst
    assert report.message == (f"mine is numerically wrong: out has 1 NaN of {out.numel()}, the first in sequence 0, "
                              "head 3, row 7, column 1")


def test_infinity_is_counted_beside_nan() -> None:
    of = reference()
    gradients = of.found(module("softmax:eager", torch.bfloat16), grad=True)
    gradients["dk"][1, 0, 9] = torch.inf
    gradients["dk"][1, 1, 3, 4] = torch.nan
    report = of.judge("mine", {"dk": gradients["dk"]})
    assert (f"dk has 1 NaN and 32 Inf of {gradients['dk'].numel()}, the first in sequence 1, head 0, row 9, column 0"
            in report.message)


def test_another_shape_is_an_error() -> None:
    of = reference()
    with pytest.raises(ValueError, match=r"out has shape \(2, 4, 95, 32\), expected \(2, 4, 96, 32\)"):
        of.judge("mine", {"out": of.exact["out"][:, :, 1:]})


@HALF
def test_the_formula_in_half_precision_is_no_honest_kernel(dtype: torch.dtype) -> None:
    """Scores that are rounded before the softmax: the measure of right that the rule replaced."""
    of = reference(dtype)
    assert not of.judge("formula", {"out": of.formula(*of.inputs, dtype=dtype)}).ok


@HALF
@pytest.mark.parametrize("factor", [1.005, 0.995])
def test_a_scale_half_a_per_cent_off_is_wrong(dtype: torch.dtype, factor: float) -> None:
    broken = module("softmax:eager", dtype)
    broken.scale *= factor
    report = reference(dtype).check(broken)
    assert not report.ok
    assert "slope" in report.message


@pytest.mark.parametrize("function", ["softmax", "alibi", "sliding-window", "linear"])
def test_no_bound_is_above_a_tenth_of_a_row_without_a_reason(function: str) -> None:
    of = reference(function=function)
    report = of.check(module(f"{function}:eager", torch.bfloat16), grad=True)
    for tensor, measure in (of.measures | of.gradient_measures).items():
        loose = (ROW * measure.spread > LOOSE * measure.size).any().item()
        assert loose == (tensor in report.reasons)
    out = of.measures["out"]
    assert (ROW * out.spread > LOOSE * out.size).double().mean() < 0.05


def test_several_draws_tell_the_spread_of_many_rows() -> None:
    """The error of a key's gradient is a few numbers, each times a query: by chance one draw has all of them tiny."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, 1, 2 ** 14, *shape, generator=generator, dtype=torch.float64)

    exact, size, queries = normal(16), normal(1, 1).exp() / 100, normal(2, 16)
    kernel, *errors = (((size * normal(1, 2)) @ queries)[..., 0, :] for _ in range(DRAWS + 1))

    def worst(draws: int) -> float:
        row = next(Measure(exact, errors[:draws], torch.bfloat16).findings(exact + kernel))
        return row.error / row.bound

    assert worst(1) > 1.5
    assert worst(DRAWS) < 0.75


def test_many_rows_of_half_precision_are_drawn_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MANY", 2 * 4 * 96)
    assert reference(torch.float32).draws == 1
    of = reference(function="rope")
    assert of.draws == DRAWS
    assert of.check(module("rope:eager", torch.bfloat16), grad=True).ok
    monkeypatch.setattr(references, "MANY", 2 * 4 * 96 + 1)
    one = reference(function="rope")
    assert one.draws == 1
    ratio = of.gradient_measures["dk"].spread / one.gradient_measures["dk"].spread
    assert ratio.min() < 0.8
    assert ratio.max() > 1.25
    assert 0.8 < ratio.median() < 1.25


def test_a_later_draw_rounds_otherwise_but_not_what_needs_no_rounding() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    one, *others = (rounded(x, torch.bfloat16, draw) - x for draw in range(DRAWS))
    for error in others:
        assert 0.8 < error.square().mean() / one.square().mean() < 1.25
        assert torch.corrcoef(torch.stack([one, error]))[0, 1].abs() < 0.1
        half = x.bfloat16().float()
        assert torch.equal(rounded(half, torch.bfloat16, 1), half)


def test_learned_parameters_are_not_the_initial_ones() -> None:
    of = reference(function="sinks")
    sinks = of.inputs[of.names.index("sinks_H")]
    assert (sinks - module("sinks:eager", torch.bfloat16).params["sinks_H"]).abs().mean() > 0.2


def test_a_row_that_rounding_decides_is_not_judged() -> None:
    """Two keys whose scores differ by less than float32 tells: a kernel may keep either."""
    q, k, v = needles(**SHAPE, dtype=torch.bfloat16)
    exact = q.double() @ k.double().repeat_interleave(2, 1).mT
    sixth = exact[0, 0, 50].topk(6).indices[-1]
    fifth = exact[0, 0, 50].topk(5).indices[-1]
    k[0, 0, sixth] = k[0, 0, fifth]
    of = Reference("hard-attention", q, k, v, top=5)
    assert of.undecided is not None
    assert of.undecided[0, 0, 50]
    assert of.undecided.sum() < 10
    assert (of.grad_out[of.undecided] == 0).all()
    found = of.found(module("hard-attention:eager", torch.bfloat16, causal=False, top=5))
    found["out"][of.undecided] += 1
    assert of.judge("mine", found).ok


def test_too_many_undecided_rows_are_no_pass() -> None:
    q, k, v = needles(**SHAPE, dtype=torch.bfloat16)
    report = check(module("hard-attention:eager", torch.bfloat16, causal=False, top=5), q, k[:, :, :1].expand_as(k), v)
    assert "undecided 1.00e+00 > 1.00e-02" in report.message


def test_a_report_without_an_error_is_right() -> None:
    report = Report("mine", {"out": 0.0}, {"out": 0.0})
    assert report.ok
    assert report.worst == 0
    assert report.message == "mine is right"


@pytest.mark.parametrize("n", [64, 512])
def test_each_key_decides_a_row(n: int) -> None:
    """Some row changes by half of its size when a key is left out, and many rows change by more than any bound when the
    next key, which is hidden, is let in."""
    q, k, v = (x.double() for x in needles(batch=1, heads=2, n=n, head_dim=64))
    told: dict[str, Any] = {"scale": 64 ** -0.5, "band": masks.CAUSAL}
    whole = eager_attend(q, k, v, **told)

    def change(other: torch.Tensor) -> torch.Tensor:
        return (other - whole).norm(dim=-1) / whole.norm(dim=-1)

    for key in range(0, n - 1, max(1, n // 32)):
        keep = (torch.arange(n) != key)[None]
        assert change(eager_attend(q, k, v, **told, key_mask=keep)).max() > 0.5, key
    later = change(eager_attend(q, k, v, scale=told["scale"], band=masks.Band(None, 1)))
    assert ((later > 0.2).double().mean(-1) > 0.1).all()


def test_needles_differ_in_size_and_by_head() -> None:
    q, k, v = needles(batch=1, heads=4, n=256, head_dim=64)
    for x in (q, v):
        sizes = x.norm(dim=-1)
        assert sizes.max() > 4 * sizes.min()
    assert (v.norm(dim=-1).mean(-1).squeeze(0).diff().abs() > 1).any()
    again = needles(batch=1, heads=4, n=256, head_dim=64)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), again, strict=True))


def test_the_outcomes_of_mutants_are_told_one_by_one() -> None:
    small = Shape(batch=2, heads=2, kv_heads=1, n=24, m=24)
    told = list(outcomes("softmax", torch.float32, shape=small))
    assert {x.causal for x in told} == {False, True}
    assert {"mask one late", "gradient of q 2 % larger", "a rescale forgotten"} <= {x.mutant for x in told if x.killed}
