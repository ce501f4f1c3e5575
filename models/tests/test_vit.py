"""ViT: tokens, loss, training."""
from __future__ import annotations

import pytest
import torch

import models
from models import vit
from models.tests import cases

TINY = "vit-tiny"


@pytest.mark.parametrize(("preset", "tokens"), [(TINY, 17), ("vit-b16", 197), ("vit-l16", 197)])
def test_tokens_are_patches_and_one_of_class(preset, tokens):
    assert vit.tokens(preset) == tokens


def test_a_class_for_each_image():
    model = cases.create(TINY)
    assert model(**vit.inputs(TINY, batch=3)).logits.shape == (3, models.get(TINY).sizes["classes"])


def test_loss_is_the_one_of_transformers():
    model = cases.create(TINY)
    x = vit.inputs(TINY, batch=12)
    expected = model(**x, labels=torch.arange(12) % 10).loss
    assert torch.allclose(vit.loss(model, x), expected, rtol=1e-6, atol=0)


def test_a_training_step_reaches_every_weight_and_lowers_the_loss():
    model = cases.create(TINY, "softmax:sdpa", initializer_range=0.02)
    x = vit.inputs(TINY, batch=4)
    before = vit.loss(model.train(), x)
    before.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert vit.loss(model, x) < before


@pytest.mark.parametrize("attention", ["softmax:eager", "softmax:sdpa"])
def test_fewer_products_give_the_same(attention):
    separate, fused = (cases.create(name, attention, dtype=torch.float64) for name in (TINY, TINY + "-fused"))
    assert sum(x.numel() for x in separate.parameters()) == sum(x.numel() for x in fused.parameters())
    assert not any(name.endswith(("q_proj", "k_proj", "v_proj")) for name, _ in fused.named_modules())
    assert not any(isinstance(module, torch.nn.Conv2d) for module in fused.modules())
    x = vit.inputs(TINY, batch=3, dtype=torch.float64)
    assert torch.allclose(fused(**x).logits, separate(**x).logits, rtol=1e-10, atol=1e-12)
