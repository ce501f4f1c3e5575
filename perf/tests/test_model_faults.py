"""Faults inside a model that get a row no time: each in one of its attention layers, or between it and its weights."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attention import Attention
from perf.bench import models as bench
from perf.bench.prepare import Preparer
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
GPT2 = Workload("gpt2-tiny", "softmax", "sdpa", "train-step", True, 2, 4, 4, 32, 32, 16, "fp32")
VIT = Workload("vit-tiny", "softmax", "sdpa", "forward", False, 2, 4, 4, 17, 17, 16, "fp32")
CASES = [replace(w, dtype=dtype) for w in (GPT2, VIT) for dtype in ("fp32", "bf16")]
REAL = [replace(w, dtype=dtype) for dtype in ("fp32", "bf16") for w in (
    replace(GPT2, model="distilgpt2", batch=1, heads=12, kv_heads=12, n=64, m=64, head_dim=64),
    replace(VIT, model="vit-b16", batch=1, heads=12, kv_heads=12, n=197, m=197, head_dim=64))]
forward = Attention.forward  # before any fault


@pytest.fixture(autouse=True)
def fresh_model():
    bench._build.cache_clear()
    yield
    bench._build.cache_clear()


def checked(w: Workload, fault: Callable[[pytest.MonkeyPatch], None] = lambda patch: None,
            change: Callable[[Any], object] = lambda model: None) -> Any:
    """Returns the report of a workload whose variant or model gets a fault once the references are there."""
    prepared = Preparer(CPU).prepare(w)
    prepared.reference()
    change(bench._build(w.model, w.function, bench.attention.DTYPES[w.dtype], CPU))
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        return prepared.check()


def scaled(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    def fault(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Attention, "forward", lambda self, q, k, v, mask=None: forward(self, factor * q, k, v, mask))
    return fault


def detached(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attention, "forward", lambda self, q, k, v, mask=None: forward(self, q.detach(), k.detach(), v, mask))


def other_mask(model: Any) -> None:
    layer = model.transformer.h[1].attn if hasattr(model, "transformer") else model.vit.layers[1].attention
    layer.is_causal = not layer.is_causal


def slow(cases: list[Workload]) -> list[Any]:
    return [pytest.param(w, marks=pytest.mark.slow, id=w.id) for w in cases]


ALL = [*(pytest.param(w, id=w.id) for w in CASES), *slow(REAL)]
TRAINED = [case for case in ALL if case.values[0].phase == "train-step"]


@pytest.mark.parametrize("w", ALL)
def test_a_right_model_is_right(w):
    report = checked(w)
    assert report.ok, report.message


@pytest.mark.parametrize("factor", [1.1, 1.5])
@pytest.mark.parametrize("w", ALL)
def test_another_scale(w, factor):
    assert "of layer" in checked(w, scaled(factor)).message


@pytest.mark.parametrize("w", TRAINED)
def test_no_gradient_of_q_and_k_from_attention(w):
    message = checked(w, detached).message
    assert "dq of layer" in message
    assert "gradients of k" in message


@pytest.mark.parametrize("w", TRAINED)
def test_no_gradient_of_q_and_k_behind_attention(w):
    """Every layer's own gradients are right, and go nowhere."""
    def cut(layer: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        q, k, v = out.chunk(3, -1)
        return torch.cat([q.detach(), k.detach(), v], -1)

    message = checked(w, change=lambda model: [block.attn.c_attn.register_forward_hook(cut)
                                               for block in model.transformer.h]).message
    assert "gradients of q" in message
    assert "gradients of k" in message
    assert "of layer" not in message


@pytest.mark.parametrize("w", ALL)
def test_one_layer_with_another_mask(w):
    assert "of layer 1" in checked(w, change=other_mask).message


def test_a_layer_that_goes_past_the_variant():
    def past(model: Any) -> None:
        attn = model.vit.layers[0].attention
        attn.forward = lambda hidden, *args, **kwargs: (attn.o_proj(attn.v_proj(hidden)), None)

    assert "missing layers" in checked(VIT, change=past).message


def test_a_revision_without_the_checks_is_held_against_its_logits_and_gradients(monkeypatch):
    monkeypatch.setattr(bench, "attention_layers", None)
    monkeypatch.setattr(bench, "parts", None)
    assert set(checked(GPT2).errors) == {"loss", "gradients"}
    assert set(checked(VIT).errors) == {"logits"}
