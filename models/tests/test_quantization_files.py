"""Saved models: bytes counted are bytes written, and a file that does not fit changes nothing."""
from __future__ import annotations

import json
import re
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

import models
from models import quantization
from models.tests import quantized


def body(path) -> int:
    """Counts the bytes of a safetensors file behind its header."""
    with path.open("rb") as file:
        header = struct.unpack("<Q", file.read(8))[0]
    return path.stat().st_size - 8 - header


@pytest.mark.parametrize(("preset", "name", "device"), quantized.cases(plain=True))
def test_bytes_counted_are_bytes_written(preset, name, device, tmp_path):
    path = tmp_path / "model.safetensors"
    model = quantized.create(preset, name, device)
    quantization.save(model, path)
    assert body(path) == quantization.model_bytes(model)
    assert quantization.model_bytes(model) <= sum(x.nbytes for x in safetensors.torch.load_file(path).values())


def test_tied_weights_and_a_layer_in_two_places_count_once():
    gpt2 = models.create("gpt2-tiny")
    assert quantization.model_bytes(gpt2) == 4 * sum(p.numel() for p in gpt2.parameters())
    tft = models.create("tft-tiny")
    assert quantization.model_bytes(tft) == 4 * sum(p.numel() for p in tft.parameters())
    shared = [quantization.model_bytes(tft, f"post_lstm_gate_{side}") for side in ("encoder", "decoder")]
    assert shared == [4 * (2 * 16 * 16 + 2 * 16)] * 2


def test_blocks_are_counted_apart():
    model = models.create("vit-tiny", dtype=torch.float16)
    assert quantization.model_bytes(model, "vit.layers") == 2 * sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("vit.layers."))


def test_a_skip_and_settings_come_back(tmp_path):
    path = tmp_path / "model.safetensors"
    method = quantization.get("bnb-fp4", double=True, dtype=torch.float16)
    model = models.create("vit-tiny", quantization=method, skip=["vit.layers.1"])
    quantization.save(model, path)
    loaded = quantization.load(path, "vit-tiny", attention="softmax:sdpa")
    assert loaded.quantization == model.quantization
    assert quantization.quantized_layers(loaded) == quantization.quantized_layers(model)
    assert quantized.distance(quantized.answers(loaded, "vit-tiny"), quantized.answers(model, "vit-tiny")) < 2e-3


def test_a_model_that_was_never_quantised_comes_back_too(tmp_path):
    path = tmp_path / "model.safetensors"
    model = models.create("tft-tiny", seed=3)
    quantization.save(model, path)
    assert torch.equal(quantized.answers(quantization.load(path, models.create("tft-tiny")), "tft-tiny"),
                       quantized.answers(model, "tft-tiny"))


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    quantization.save(models.create("vit-tiny"), path)
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        quantization.save(models.create("vit-tiny", seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write(path, change=None, preset: str = "vit-tiny", **settings) -> None:
    """Writes a saved model after `change(description, tensors)` has changed its header and tensors."""
    quantization.save(models.create(preset, **settings), path)
    if change:
        with safetensors.safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["quantization"])
        tensors = safetensors.torch.load_file(path)
        change(described, tensors)
        safetensors.torch.save_file(tensors, path, {"format": "attention-perf model 1",
                                                    "quantization": json.dumps(described)})


def truncate(path) -> None:
    write(path, quantization="bnb-nf4")
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(("make", "line"), [
    (truncate, "{path} is truncated or no safetensors file ("),
    (lambda path: path.write_text("not safetensors"), "{path} is truncated or no safetensors file ("),
    (lambda path: path.write_bytes(b""), "{path} is truncated or no safetensors file ("),
    (foreign, "{path} was not written by models.quantization.save"),
    (lambda path: write(path, classes=7),
     "{path} is of another model: classifier.weight is [7, 64] there and [10, 64] here"),
    (lambda path: write(path, classes=7, quantization="bnb-nf4"),
     "{path} is of another model: classifier.weight is [7, 64] there and [10, 64] here"),
    (lambda path: write(path, heads=2, layers=1, quantization="bnb-nf4"), "{path} is of another model: it lacks vit."),
    (lambda path: write(path, layers=3, quantization="bnb-nf4"),
     "{path} is of another model: this one has no layer vit.layers.2."),
    (lambda path: write(path, lambda d, t: d["layers"].update({"vit.layers.0.mlp.fc1": [64, 256]}),
                        quantization="bnb-nf4"),
     "{path} is of another model: vit.layers.0.mlp.fc1 is [64, 256] there and [256, 64] here"),
    (lambda path: write(path, lambda d, t: t.pop("vit.layers.0.mlp.fc1.absmax"), quantization="bnb-nf4"),
     "{path} is of another model: it lacks vit.layers.0.mlp.fc1.absmax"),
    (lambda path: write(path, lambda d, t: t.update({"vit.layers.0.mlp.fc1.absmax": torch.zeros(3)}),
                        quantization="bnb-nf4"),
     "{path} is of another model: vit.layers.0.mlp.fc1.absmax is [3] there and [256] here"),
    (lambda path: write(path, lambda d, t: d.update(method="ao-fp8-dynamic"), quantization="bf16"),
     "{path}: ao-fp8-dynamic runs on cuda, not on cpu"),
    (lambda path: write(path, lambda d, t: d.update(method="nf5"), quantization="bnb-nf4"),
     "{path}: unknown quantization 'nf5'"),
    (lambda path: write(path, dtype=torch.bfloat16), "{path}: vit.embeddings."),
])
def test_a_file_that_does_not_fit_is_one_line_and_changes_nothing(make, line, tmp_path):
    path = tmp_path / "model.safetensors"
    make(path)
    model = models.create("vit-tiny", seed=5)
    before = quantized.answers(model, "vit-tiny")
    with pytest.raises(ValueError, match="^" + re.escape(line.format(path=path))) as error:
        quantization.load(path, model)
    assert "\n" not in str(error.value)
    assert torch.equal(quantized.answers(model, "vit-tiny"), before)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_other_refusals(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="no model file"):
        quantization.load(path, "vit-tiny")
    quantization.save(models.create("vit-tiny", quantization="bnb-nf4"), path)
    with pytest.raises(ValueError, match="unknown model preset"):
        quantization.load(path, "vit-tinny")
    with pytest.raises(ValueError, match="load it into an unquantised model"):
        quantization.load(path, models.create("vit-tiny", quantization="bnb-nf4"))
    with pytest.raises(ValueError, match="layers: settings go with a preset's name"):
        quantization.load(path, models.create("vit-tiny"), layers=3)


def test_a_lone_layer_is_a_model_too(tmp_path):
    path = tmp_path / "layer.safetensors"
    layer = quantization.quantize(nn.Sequential(nn.Linear(32, 32)), "ao-int8-weight")
    quantization.save(layer, path)
    x = torch.randn(3, 32, dtype=torch.bfloat16)
    assert torch.equal(quantization.load(path, nn.Sequential(nn.Linear(32, 32)))(x), layer(x))
