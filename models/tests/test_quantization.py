"""Quantisation: what is quantised, what is kept, how far the answers move, what is refused."""
from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import models
from models import quantization
from models.tests import quantized
from models.tests.cases import DEVICES

NAMES = ["fp32", "fp16", "bf16", "bnb-int8", "bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "ao-int8-weight", "ao-int8-dynamic",
         "ao-int4-weight", "ao-fp8-dynamic", "ptq-int8", "low-rank"]
# The relative error of a model's answers; of one layer, int8 is off by 1 % and 4 bits by 10 %.
FOUR_BITS = ("bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "ao-int4-weight")


def test_the_methods_are_these_in_this_order():
    assert quantization.methods() == NAMES


@pytest.mark.parametrize(("preset", "name", "device"), [p for p in quantized.cases()
                                                        if not quantization.get(p.values[1]).learnt])
def test_answers_move_a_little(preset, name, device):
    before, after = quantized.plain(preset, name, device), quantized.create(preset, name, device)
    change = quantized.distance(quantized.answers(after, preset), quantized.answers(before, preset))
    assert 0 < change < (0.25 if name in FOUR_BITS else 0.06)


WEIGHTS = 512 * 256
# Of a layer with 256 inputs and 512 outputs: codes, scales, and what decodes them.
BYTES = {
    "fp32": 4 * WEIGHTS, "fp16": 2 * WEIGHTS, "bf16": 2 * WEIGHTS,
    "bnb-int8": WEIGHTS + 4 * 512,
    "bnb-nf4": WEIGHTS // 2 + 4 * WEIGHTS // 64 + 4 * 16,
    "bnb-fp4": WEIGHTS // 2 + 4 * WEIGHTS // 64 + 4 * 16,
    "bnb-nf4-dq": WEIGHTS // 2 + WEIGHTS // 64 + 4 * WEIGHTS // 64 // 256 + 4 * 16 + 4 * 256 + 4,
    "ao-int8-weight": WEIGHTS + 4 * 512 + 512,
    "ao-int8-dynamic": WEIGHTS + 4 * 512 + 512,
    "ao-int4-weight": 512 * 1024 // 2 + 2 * 2 * 512 * 1024 // 128,  # inputs padded to 1024
    "ao-fp8-dynamic": WEIGHTS + 4 * 512,
    "ptq-int8": WEIGHTS + 8 + 8,
    "low-rank": 2 * 128 * (512 + 256),  # the rank at which the factors hold 0.75 of the weights
}


@pytest.mark.parametrize(("name", "device"), [
    (name, device) for device in DEVICES for name in NAMES
    if quantization.why_not(name, device=device) is None])
def test_bytes_are_those_counted_by_hand(name, device):
    layer = nn.Sequential(nn.Linear(256, 512, bias=False, device=device))
    assert quantization.model_bytes(quantization.quantize(layer, name)) == BYTES[name]


@pytest.mark.parametrize("preset", quantized.PRESETS)
@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_plain_methods_only_set_the_dtype(preset, name):
    model = models.create(preset, quantization=name)
    assert {p.dtype for p in model.parameters()} == {quantization.get(name).dtype}
    assert torch.equal(quantized.answers(model, preset), quantized.answers(quantized.plain(preset, name), preset))
    assert quantization.quantized_layers(model) == []


def test_every_conv1d_of_gpt2_is_quantised_as_the_linear_layer_that_it_is():
    model = quantized.create("gpt2-tiny", "ao-int8-weight")
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert quantization.quantized_layers(model) == [f"transformer.h.{i}.{name}" for i in (0, 1) for name in layers]
    before = quantized.plain("gpt2-tiny", "ao-int8-weight").transformer.h[0].mlp.c_fc
    after = model.transformer.h[0].mlp.c_fc
    assert (after.in_features, after.out_features) == (64, 256)
    assert quantized.distance(after.weight.dequantize(), before.weight.t()) < 0.01


@pytest.mark.parametrize("name", [n for n in NAMES if quantized.runs("gpt2-tiny", n, "cpu")])
def test_the_head_stays_tied_to_the_embedding(name):
    model = quantized.create("gpt2-tiny", name)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_tied_layer_is_kept_wherever_it_stands():
    model: Any = nn.Sequential(nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32))
    model[2].weight = model[0].weight
    quantization.quantize(model, "ao-int8-weight")
    assert quantization.quantized_layers(model) == ["1"]
    assert quantization.kept_layers(model) == {"2": "its weight is that of 0 too"}


def test_a_layer_in_two_places_stays_one():
    model = quantized.create("tft-tiny", "ptq-int8")
    assert model.post_lstm_gate_encoder.fc is model.post_lstm_gate_decoder.fc
    assert {"lstm_encoder", "lstm_decoder"} <= set(quantization.quantized_layers(model))
    layer = nn.Linear(32, 32)
    twice: Any = quantization.quantize(nn.Sequential(layer, nn.Sequential(layer)), "bnb-nf4")
    assert twice[0] is twice[1][0]
    assert quantization.quantized_layers(twice) == ["0"]


@pytest.mark.parametrize(("skip", "left_alone"), [
    ("vit.layers.1", {f"vit.layers.1.{x}" for x in (
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")}),
    (["vit.layers.*.mlp.fc1"], {"vit.layers.0.mlp.fc1", "vit.layers.1.mlp.fc1"}),
    (["vit.layers.0.mlp", "*.1.mlp.fc2"], {"vit.layers.0.mlp.fc1", "vit.layers.0.mlp.fc2", "vit.layers.1.mlp.fc2"}),
])
def test_skip_keeps_named_layers_in_half_precision(skip, left_alone):
    everything = set(quantization.quantized_layers(models.create("vit-tiny", quantization="bnb-nf4")))
    model = quantized.create("vit-tiny", "bnb-nf4", skip=skip)
    assert everything - set(quantization.quantized_layers(model)) == left_alone
    assert {model.get_submodule(name).weight.dtype for name in left_alone} == {torch.bfloat16}
    assert all(quantization.kept_layers(model)[name].startswith("skip=") for name in left_alone)


def test_the_output_layer_and_small_layers_are_kept_with_the_reason():
    left_alone = quantization.kept_layers(models.create("tft-tiny", quantization="ao-int8-weight"))
    assert left_alone["output_layer"] == "the model's output"
    assert left_alone["prescalers.known0"] == "a side is smaller than 16"
    assert "classifier" in quantization.kept_layers(models.create("vit-tiny", quantization="bnb-int8"))


@pytest.mark.parametrize(("call", "line"), [
    (lambda: quantization.get("nf4"), "unknown quantization 'nf4'; did you mean 'bnb-nf4'? Choices: fp32, fp16, "),
    (lambda: models.create("vit-tiny", quantization="int8"), "unknown quantization 'int8'"),
    (lambda: quantization.get("bnb-nf4", blocks=3), "bnb-nf4 has no setting 'blocks'; its settings: dtype, double"),
    (lambda: quantization.get("ptq-int8", dtype=torch.bfloat16), "ptq-int8 computes in float32, not in bfloat16"),
    (lambda: models.create("vit-tiny", quantization="fp16", dtype=torch.float32),
     "fp16 computes in float16, not in float32"),
    (lambda: models.create("vit-tiny", quantization="ao-fp8-dynamic"),
     "vit-tiny: ao-fp8-dynamic runs on cuda, not on cpu"),
    (lambda: models.create("vit-tiny", quantization="bnb-nf4", skip=["vit.layer.1"]),
     "skip='vit.layer.1' names no layer that bnb-nf4 could quantise; some of those: vit.layers.0."),
    (lambda: models.create("vit-tiny", skip=["classifier"]), "vit-tiny: skip=['classifier'] without a quantization"),
    (lambda: quantization.quantize(models.create("vit-tiny", quantization="bnb-nf4"), "bnb-int8"),
     "the model is quantised already (bnb-nf4)"),
    (lambda: quantization.quantize(nn.Linear(1, 64), "ao-int8-weight"), "ao-int8-weight finds no layer that it could"),
    (lambda: quantization.model_bytes(nn.Linear(1, 64), "blocks"), "the model has no module 'blocks'"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)
