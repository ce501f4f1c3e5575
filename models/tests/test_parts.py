"""Parts of models: which weight is whose, gradients by part, and sharp attention."""
from __future__ import annotations

import pytest
import torch

import models
from models import parts

FAMILIES = ["gpt2-tiny", "vit-tiny", "vit-tiny-fused", "tft-tiny"]


def step(model: torch.nn.Module, preset: str) -> dict[str, torch.Tensor]:
    family = models.family(preset)
    x = family.inputs(preset, batch=2, **({"n": 17} if preset == "gpt2-tiny" else {}))
    model.zero_grad()
    family.loss(model, x).backward()
    return parts.gradients(model)


@pytest.mark.parametrize("preset", FAMILIES)
def test_every_weight_is_in_one_part_and_none_is_lost(preset):
    model = models.create(preset)
    gradients = step(model, preset)
    assert sum(x.numel() for x in gradients.values()) == sum(w.numel() for w in model.parameters())
    assert {"q", "k", "v", "attention's output", "embeddings", "norms"} <= set(gradients)
    whole = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]).double()
    assert sum(x.square().sum() for x in gradients.values()) == pytest.approx(whole.square().sum().item())
    hidden = models.get(preset).hidden
    layers = models.get(preset).layers
    assert gradients["q"].numel() == layers * hidden * (hidden + 1)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "vit-tiny-fused"])
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_third_of_a_packed_weight_is_the_projection_that_it_makes(preset, part):
    """Its gradient is gone where that third of the projection is cut off, and no other part's is."""
    model = models.create(preset)
    before = step(model, preset)

    def cut(layer, args, out):
        thirds = list(out.chunk(3, -1))
        thirds["qkv".index(part)] = thirds["qkv".index(part)].detach()
        return torch.cat(thirds, -1)

    for name, layer in model.named_modules():
        if name.endswith(("c_attn", "qkv")):
            layer.register_forward_hook(cut)
    after = step(model, preset)
    assert before[part].abs().max() > 0
    assert [each for each in after if not after[each].any()] == [part]


@pytest.mark.parametrize("preset", FAMILIES)
def test_sharpen_spreads_the_scores(preset):
    flat, sharp = models.create(preset), parts.sharpen(models.create(preset))
    others = {"v", "mlp", "embeddings", "norms", "attention's output"}
    twins = dict(flat.named_parameters())
    for name, weight in sharp.named_parameters():
        for (part, mine), (_, theirs) in zip(parts.shares(name, weight), parts.shares(name, twins[name]), strict=True):
            if part in others:
                assert torch.equal(mine, theirs)
            elif part in ("q", "k") and weight.dim() == 2:
                inputs = models.get(preset).hidden
                assert mine.std().item() * inputs ** 0.5 == pytest.approx(1.5, rel=0.01)
