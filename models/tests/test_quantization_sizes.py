"""Quantisation shrinks the study's models by certain factors; counting bytes of weights needs no GPU."""
from __future__ import annotations

import pytest
import torch

import models
from models import quantization
from models.quantization import layers
from models.quantization.quantize import Quantized, apply

pytestmark = pytest.mark.slow


def shrunk(preset: str, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Builds the model in bf16 and quantised, also by a method whose layers a CPU can make but not run."""
    method = quantization.get(name)
    plain, model = (models.create(preset, dtype=torch.bfloat16) for _ in range(2))
    chosen, left_alone = layers.choose(model, method, ())
    shapes = {layer: layers.shape(model.get_submodule(layer)) for layer in chosen}
    return plain, apply(model, Quantized(method, shapes, left_alone))


@pytest.mark.parametrize("name", ["ao-fp8-dynamic", "ao-int8-dynamic", "bnb-int8"])
def test_vit_l16_in_8_bits_is_at_most_051_of_bf16(name):
    plain, model = shrunk("vit-l16", name)
    assert quantization.model_bytes(model) <= 0.51 * quantization.model_bytes(plain)
    assert len(quantization.quantized_layers(model)) == 24 * 6
    assert quantization.kept_layers(model) == {"classifier": "the model's output"}


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-nf4-dq"])
@pytest.mark.parametrize(("preset", "blocks"), [("vit-l16", "vit.layers"), ("gpt2", "transformer.h")])
def test_blocks_in_nf4_are_at_least_35_times_smaller_than_in_half_precision(preset, blocks, name):
    plain, model = shrunk(preset, name)
    assert quantization.model_bytes(plain, blocks) >= 3.5 * quantization.model_bytes(model, blocks)
