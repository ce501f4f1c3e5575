"""softcap and sinks: softmax changed in one place, against transformers' own models."""
from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention.backends.sinks import SinksGradient
from attention.testing import check, inputs
from attention.tests.test_oracles import wave

# transformers 5.23.0, eager_attention_forward of modeling_gemma2.py (cap 1.5; its softmax in float64) and of
# modeling_gpt_oss.py, on the waves below, at (head, position): query heads in pairs on two key/value heads, scale 0.5.
FROZEN = json.loads(Path(__file__).with_name("frozen_stock.json").read_text())
ROWS = ((0, 0), (1, 3), (3, 5))
SINKS = torch.tensor([-1.5, 0.0, 0.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("backend", ["oracle", "eager"])
@pytest.mark.parametrize("case", FROZEN)
def test_the_published_numbers(case: str, backend: str) -> None:
    function, _, mask = case.partition(" ")
    q, k, v = (wave((1, h, 6, 4), phase) for h, phase in ((4, 0.0), (2, 1.0), (2, 2.0)))
    options: dict[str, Any] = {"cap": 1.5} if function == "softcap" else {}
    causal = mask == "causal"
    if backend == "oracle":
        params = {"sinks_H": SINKS} if function == "sinks" else None
        out = attention.oracle(function, q, k, v, scale=0.5, causal=causal, params=params, **options)
    else:
        module = attention.create(f"{function}:eager", heads=4, kv_heads=2, head_dim=4, scale=0.5, causal=causal,
                                  dtype=torch.float64, **options)
        if function == "sinks":
            module.load_state_dict({"sinks_H": SINKS})
        out = module(q, k, v)
    for (head, position), expected in zip(ROWS, FROZEN[case], strict=True):
        torch.testing.assert_close(out[0, head, position].detach(), torch.tensor(expected, dtype=torch.float64),
                                   rtol=1e-13, atol=1e-13)


def test_a_high_cap_is_softmax_and_a_low_one_the_mean() -> None:
    q, k, v = inputs(batch=1, heads=2, n=16, head_dim=8, dtype=torch.float64)
    softmax = attention.oracle("softmax", q, k, v)
    off = [(attention.oracle("softcap", q, k, v, cap=cap) - softmax).abs().max().item() for cap in (1, 10, 100, 1e6)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-11
    mean = v.mean(2, keepdim=True).expand_as(v)
    assert (attention.oracle("softcap", q, k, v, cap=1e-9) - mean).abs().max() < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiled_softcap_over_several_tiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention.backends import tiled

    monkeypatch.setattr(tiled, "QUERIES", 5)
    monkeypatch.setattr(tiled, "KEYS", 7)
    module = attention.create("softcap:tiled", heads=4, kv_heads=2, head_dim=8, causal=True, cap=0.7)
    report = check(module, *inputs(batch=2, heads=4, kv_heads=2, n=17, m=23, head_dim=8, dtype=dtype), grad=True)
    assert report.ok, report.message


@pytest.mark.parametrize("name", ["softcap:eager", "softcap:tiled", "sinks:eager"])
def test_gradients_are_the_derivatives(name: str) -> None:
    options: dict[str, Any] = {"cap": 0.8} if name.startswith("softcap") else {}
    module = attention.create(name, heads=2, kv_heads=1, head_dim=3, causal=True, dtype=torch.float64, **options)
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=4, m=6, head_dim=3, dtype=torch.float64, grad=True)
    learned = tuple(p.detach().clone().requires_grad_() for p in module.parameters())

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *learned: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(module.named_parameters()), learned, strict=True))
        return torch.func.functional_call(module, named, (q, k, v))

    assert torch.autograd.gradcheck(call, (q, k, v, *learned))


def test_a_sink_takes_what_its_logit_says() -> None:
    """A sink at log(m) takes half of the weight of m keys with constant scores; one at -inf takes nothing."""
    m = 8
    q = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    k, v = torch.zeros(1, 2, m, 4, dtype=torch.float64), torch.ones(1, 2, m, 4, dtype=torch.float64)
    params = {"sinks_H": torch.tensor([math.log(m), -torch.inf], dtype=torch.float64)}
    out = attention.oracle("sinks", q, k, v, params=params)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([0.5, 1.0], dtype=torch.float64))


def test_sinks_start_near_zero_and_the_same_every_time() -> None:
    one, other = (attention.create("sinks:eager", heads=64, head_dim=8) for _ in range(2))
    sinks = one.params["sinks_H"]
    assert torch.equal(sinks, other.params["sinks_H"])
    assert 0.01 < sinks.std().item() < 0.03
    assert sinks.requires_grad


def test_the_gradient_beside_a_kernel_is_the_derivative() -> None:
    score, v = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 5, 6, dtype=torch.float64)
    sinks = torch.randn(3, dtype=torch.float64, requires_grad=True)
    grad_out = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    scores = torch.cat([score, sinks[:, None, None].expand(2, 3, 4, 1)], -1)
    out = scores.softmax(-1)[..., :5] @ v
    [exact] = torch.autograd.grad(out, sinks, grad_out, retain_graph=True)
    passed = SinksGradient.apply(out.detach(), scores.logsumexp(-1).detach(), sinks)
    assert torch.equal(passed, out)
    torch.testing.assert_close(torch.autograd.grad(passed, sinks, grad_out)[0], exact)


def test_a_small_sink_is_lost_behind_a_rounded_output() -> None:
    """flash-attn 2 and 3 return an output and a log-sum-exp; sinks can't be added behind them."""
    q, k, v = inputs(batch=1, heads=2, n=512, head_dim=16, dtype=torch.bfloat16)
    module = attention.create("sinks:eager", heads=2, head_dim=16, causal=True, dtype=torch.bfloat16)

    def behind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        scores = (q.float() @ k.float().mT / 4).masked_fill(~torch.ones(512, 512, dtype=torch.bool).tril(), -math.inf)
        share = (scores.logsumexp(-1) - options["sinks_H"].float()[:, None]).sigmoid()
        return ((scores.softmax(-1) @ v.float()).to(q.dtype) * share.unsqueeze(-1)).to(q.dtype)

    assert check(module, q, k, v).ok
    module._attend = behind
    report = check(module, q, k, v)
    assert not report.ok
    assert "slope" in report.message


@pytest.mark.parametrize("cap", [0, -1.0, True, "50", float("inf"), float("nan")])
def test_an_impossible_cap_is_refused(cap: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"softcap: cap={cap!r} must be a number > 0")):
        attention.create("softcap:eager", heads=1, head_dim=4, cap=cap)
