"""Whole models without padding: each sequence has the results, and the weights the gradients, that padded ones have."""
from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import models
from models import packed
from models.tests import cases

LENGTHS = (7, 1, 30, 12)


def texts(vocabulary: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=random) for length in LENGTHS]


def images() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=random) for size in ((32, 32), (8, 24), (40, 16))]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_gpt2_reads_packed_texts_as_padded_ones(backend):
    model, tokens = cases.create("gpt2-tiny"), texts(101)
    padded = model(pad_sequence(tokens, batch_first=True), use_cache=True).logits  # at the end, which causality hides
    expected = [logits[:length] for logits, length in zip(padded, LENGTHS, strict=True)]
    torch.cat(expected).square().mean().backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    out = packed.read(packed.unpadded(model, backend), tokens)
    torch.testing.assert_close(out, expected, atol=2e-4, rtol=2e-4)
    torch.cat(out).square().mean().backward()
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-4 * gradient.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "nested"])
def test_vit_sees_packed_images_as_each_alone(backend):
    model = cases.create("vit-tiny")
    with torch.no_grad():
        alone = [model(image[None], interpolate_pos_encoding=True).logits[0] for image in images()]
        out = packed.see(packed.unpadded(model, backend), images())
    torch.testing.assert_close(out, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_another_order_of_the_texts_changes_no_text():
    model, tokens = packed.unpadded(cases.create("gpt2-tiny"), "sdpa"), texts(101)
    with torch.no_grad():
        torch.testing.assert_close(packed.read(model, tokens[::-1])[::-1], packed.read(model, tokens),
                                   atol=2e-4, rtol=2e-4)


def test_an_unpadded_model_refuses_a_padded_call_and_an_unknown_backend():
    model = packed.unpadded(models.create("gpt2-tiny"), "sdpa")
    with pytest.raises(ValueError, match=r"models\.packed"):
        model(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="varlen:tiled"):
        packed.unpadded(model, "tiled")
