"""LoRA and QLoRA: what is trained, what stays, and that saving changes nothing."""
from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch

import models
from models import lora, quality, training
from models.data import split
from models.quantization import quantize, why_not
from models.recipes import recipe

pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SHORT = replace(lora.RECIPE, steps=6, batch=4)
NF4 = [None, pytest.param("bnb-nf4", marks=pytest.mark.skipif(
    (reason := why_not("bnb-nf4", device="cpu")) is not None, reason=str(reason)))]


def base(preset, method):
    model = models.create(preset, attention="softmax:sdpa", seed=3)
    return model if method is None else quantize(model, method)


def answer(model, preset):
    inputs, _ = split(preset if preset == "gpt2-docstrings" else "vit-digits")[1].batch(torch.arange(3))
    dtype = next(model.parameters()).dtype
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        return model(**inputs).logits.float()


@pytest.mark.parametrize("method", NF4)
@pytest.mark.parametrize(("preset", "layers"), [("vit-tiny", 12), ("gpt2-docstrings", 8)])
def test_adapters_begin_as_nothing_and_they_and_the_head_alone_are_trained(preset, layers, method):
    model = base(preset, method)
    before = answer(model, preset)
    adapted = lora.add(model, preset)
    assert torch.equal(answer(adapted, preset), before)
    weights = {name: weight.clone() for name, weight in adapted.named_parameters()}
    trainable = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert sum("lora_A" in name for name in trainable) == sum("lora_B" in name for name in trainable) == layers
    assert {name for name in trainable if "lora_" not in name} == (
        {f"base_model.model.classifier.modules_to_save.default.{part}" for part in ("weight", "bias")}
        if preset == "vit-tiny" else set())
    lora.finetune(adapted, preset, how=SHORT)
    changed = {name for name, weight in adapted.named_parameters() if not torch.equal(weight, weights[name])}
    assert changed == trainable
    assert not torch.equal(answer(adapted, preset), before)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 32)


@pytest.mark.parametrize("method", NF4)
@pytest.mark.parametrize("preset", ["vit-tiny", "gpt2-docstrings"])
def test_saving_changes_nothing_and_loading_gives_the_same_model(tmp_path, preset, method):
    adapted = lora.finetune(lora.add(base(preset, method), preset), preset, how=SHORT)
    before = answer(adapted, preset)  # used in eval mode first: that is when 4-bit weights were repacked
    lora.save(adapted, tmp_path)
    assert torch.equal(answer(adapted, preset), before)
    assert torch.equal(answer(lora.load(base(preset, method), preset, tmp_path), preset), before)
    lora.finetune(adapted, preset, how=SHORT)  # and it can be trained on
    assert not torch.equal(answer(adapted, preset), before)
    small = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert small < 0.8 * 4 * sum(weight.numel() for weight in adapted.parameters() if not weight.requires_grad)


def test_a_fine_tuned_model_resumes_and_is_evaluated(tmp_path):
    def tuned(**settings):
        return lora.finetune(lora.add(base("vit-tiny", None), "vit-tiny"), "vit-tiny", how=SHORT, **settings)

    def stop(step, *_):
        if step >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(checkpoint=tmp_path / "run.pt", every=4, progress=stop)
    whole, resumed = tuned(), tuned(checkpoint=tmp_path / "run.pt")
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert len(quality.evaluate(whole, "vit-tiny", limit=8)["top1"].items) == 8


def test_the_head_is_trained_in_float32_and_answers_in_the_models_dtype():
    adapted = lora.add(models.create("vit-tiny", dtype=torch.bfloat16), "vit-tiny")
    head = adapted.base_model.model.classifier.modules_to_save["default"].weight
    dtypes = []
    lora.finetune(adapted, "vit-tiny", how=replace(SHORT, steps=10), progress=lambda *_: dtypes.append(head.dtype))
    assert (dtypes, head.dtype) == ([torch.float32], torch.bfloat16)
    assert 0 <= quality.evaluate(adapted, "vit-tiny", limit=8)["top1"].value <= 100


def test_a_wrong_adapter_is_refused_in_one_line_and_the_model_stays(tmp_path):
    lora.save(lora.add(base("vit-tiny", None), "vit-tiny"), tmp_path)
    model = base("vit-tiny", None)

    def refused(line, target=model, preset="vit-tiny"):
        with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
            lora.load(target, preset, tmp_path)
        assert "\n" not in str(error.value)
        assert not any("lora_" in name for name, _ in target.named_parameters())

    refused(f"{tmp_path}: an adapter of another model: base_model.model.classifier.bias is (10,), here (12,)",
            models.create("vit-tiny", classes=12))
    refused(f"{tmp_path}: an adapter of another model: ", base("gpt2-docstrings", None), "gpt2-docstrings")
    file = tmp_path / lora.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    refused(f"{tmp_path}: no whole adapter; expected adapter_config.json and adapter_model.safetensors (")
    file.unlink()
    refused(f"{tmp_path}: no whole adapter; ")


@pytest.mark.parametrize(("call", "line"), [
    (lambda: lora.add(models.create("tft-tiny"), "tft-tiny"), "tft-tiny: LoRA is for the blocks of a ViT or GPT-2"),
    (lambda: lora.add(lora.add(base("vit-tiny", None), "vit-tiny"), "vit-tiny"),
     "vit-tiny: this model has adapters already"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)):
        call()


def test_without_peft_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    line = r"^peft is needed for LoRA: pip install 'attention-perf\[lora\]' \("
    with pytest.raises(ImportError, match=line) as error:
        lora.add(base("vit-tiny", None), "vit-tiny")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", NF4)
def test_fine_tuning_learns_another_task(method):
    """A model of the digits learns to say the next digit; before, it is nearly always wrong about that."""
    def next_digit(images):
        return replace(images, labels_N=(images.labels_N + 1) % 10)

    train, held_out = split("vit-digits")
    start = training.train("vit-digits", how=replace(recipe(models.get("vit-digits")), steps=200))
    model = lora.add(start if method is None else quantize(start, method), "vit-digits")
    before = quality.evaluate(model, "vit-digits", next_digit(held_out))["top1"]
    lora.finetune(model, "vit-digits", next_digit(train))
    after = quality.evaluate(model, "vit-digits", next_digit(held_out))["top1"]
    assert before.value < 20
    assert after.value > 50
