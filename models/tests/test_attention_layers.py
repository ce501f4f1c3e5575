"""Attention layers judged one by one: faults that logits and the gradients of all weights together hide."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import models
from attention import Attention
from models import attention_layers, parts, transformers_attention

DTYPES = [torch.float32, torch.bfloat16]
TINY = [("gpt2-tiny", "train-step"), ("vit-tiny", "forward"), ("tft-tiny", "train-step")]
REAL = [pytest.param("distilgpt2", "train-step", marks=pytest.mark.slow),
        pytest.param("vit-b16", "forward", marks=pytest.mark.slow)]
forward = Attention.forward  # before any fault


def created(preset: str, dtype: torch.dtype, variant: str = "softmax:sdpa") -> Any:
    model = models.create(preset, attention=variant, dtype=dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return parts.sharpen(model)


def judged(model: Any, name: str, phase: str, **inputs: Any) -> Any:
    """Gives the result of the check for one pass of the model."""
    family, preset = models.family(name), models.get(name)
    length = {"n": 33} if preset.family == "gpt2" else {}
    x = family.inputs(preset, batch=2, dtype=next(model.parameters()).dtype, **length) | inputs
    with attention_layers.record() as calls, torch.set_grad_enabled(phase == "train-step"):
        if phase == "train-step":
            family.loss(model.train(), x).backward()
        else:
            model(**x)
    return attention_layers.check(calls, "softmax", layers=preset.layers, causal=preset.causal)


def scaled(factor: float) -> Callable[..., torch.Tensor]:
    return lambda self, q, k, v, mask=None: forward(self, factor * q, k, v, mask)


def detached(self: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = None) -> torch.Tensor:
    return forward(self, q.detach(), k.detach(), v, mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("preset", "phase"), [*TINY, *REAL])
def test_right_models_are_right(preset, phase, dtype):
    report = judged(created(preset, dtype), preset, phase)
    assert report.ok, report.message
    tensors = {"out", "dq", "dk", "dv"} if phase == "train-step" else {"out"}
    assert tensors <= {name.split()[0] for name in report.errors}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("preset", "phase"), [*TINY, *REAL])
@pytest.mark.parametrize("factor", [1.5, 1.1])
def test_another_scale_is_caught(preset, phase, dtype, factor, monkeypatch):
    model = created(preset, dtype)
    monkeypatch.setattr(Attention, "forward", scaled(factor))
    assert "out" in judged(model, preset, phase).message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", ["gpt2-tiny", "tft-tiny", pytest.param("distilgpt2", marks=pytest.mark.slow)])
def test_no_gradient_of_q_and_k_is_caught(preset, dtype, monkeypatch):
    model = created(preset, dtype)
    monkeypatch.setattr(Attention, "forward", detached)
    message = judged(model, preset, "train-step").message
    assert "dq" in message
    assert "dk" in message
    assert "dv" not in message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("preset", "phase"), [*TINY[:2], *REAL])
def test_one_layer_with_another_mask_is_caught(preset, phase, dtype):
    """A causal layer that sees everything, and one that should see everything and is causal."""
    model = created(preset, dtype)
    blocks = model.transformer.h if models.get(preset).family == "gpt2" else model.vit.layers
    layer = getattr(blocks[1], "attn", None) or blocks[1].attention
    layer.is_causal = not layer.is_causal
    assert "out of layer 1" in judged(model, preset, phase).message.replace("out rms of", "out of")


def test_a_scale_that_a_model_passes_on_is_caught():
    model = created("gpt2-tiny", torch.bfloat16)
    model.transformer.h[0].attn.scaling *= 1.1
    assert "of layer 0" in judged(model, "gpt2-tiny", "train-step").message


def test_a_layer_that_goes_past_the_variant_is_caught():
    model = created("gpt2-tiny", torch.float32)
    attn = model.transformer.h[1].attn
    attn.forward = lambda hidden, *args, **kwargs: (attn.c_proj(hidden), None)
    report = judged(model, "gpt2-tiny", "forward")
    assert not report.ok
    assert "attention in 1 of 2 layers is numerically wrong: missing layers" in report.message


def test_padding_is_known():
    x = {"attention_mask": torch.tensor([[0] * 5 + [1] * 28, [1] * 33])}
    assert judged(created("gpt2-tiny", torch.float32), "gpt2-tiny", "forward", **x).ok
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "forward", lambda self, q, k, v, mask=None: forward(self, q, k, v))
        model = created("gpt2-tiny", torch.float32)
        assert not judged(model, "gpt2-tiny", "forward", **x).ok


def test_nothing_is_recorded_afterwards_and_results_stay_the_same():
    model = created("gpt2-tiny", torch.float32)
    x = models.family("gpt2-tiny").inputs("gpt2-tiny", batch=2, n=9)
    with torch.no_grad():
        before = model(**x).logits
        with attention_layers.record() as calls:
            during = model(**x).logits
        assert len(calls) == 2
        assert torch.equal(before, during)
        assert torch.equal(before, model(**x).logits)
    assert len(calls) == 2


def test_a_flat_model_hides_what_a_sharp_one_shows():
    """The reason for `sharpen`: a scale 10 % off moves the output three times as much."""
    errors = {}
    for sharp in (False, True):
        model = models.create("distilgpt2", layers=1, dtype=torch.bfloat16)
        model = parts.sharpen(model) if sharp else model
        x = models.family("distilgpt2").inputs("distilgpt2", batch=1, n=64)
        with attention_layers.record() as calls, torch.no_grad():
            model(**x)
        out, = (call.out.double() for call in calls)
        call, = calls
        core = transformers_attention.core(model.config, "softmax:eager", {}, heads=12, kv_heads=12, head_dim=64,
                                           causal=True, scale=1.1 / 8)
        errors[sharp] = ((core(call.q, call.k, call.v).double() - out).norm() / out.norm()).item()
    assert errors[True] > 3 * errors[False]
