"""Presets: what they say, what they refuse, how another package adds its own."""
from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

import attention
import models
from models import registry


def test_presets_are_looked_up_without_a_model_library():
    code = "import sys, models; models.presets(); models.get('gpt2'); print('transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(("name", "weights"), [
    ("distilgpt2", 81_912_576),  # as published, for the first three
    ("gpt2", 124_439_808),
    ("vit-b16", 86_567_656),
    ("vit-l16", 304_326_632 - (1000 - 102) * 1025),  # the published one has 1000 classes
])
def test_presets_have_the_published_number_of_weights(name, weights):
    with torch.device("meta"):
        model = models.create(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == weights


def test_the_study_presets_have_its_shapes():
    tft, vit = models.get("tft-160"), models.get("vit-l16")
    assert (tft.hidden, tft.heads, tft.sizes["context"], tft.sizes["horizon"]) == (160, 4, 168, 24)
    assert models.family("vit-l16").tokens(vit) == 197
    assert vit.sizes["classes"] == 102


@pytest.mark.parametrize(("call", "line"), [
    (lambda: models.get("gtp2"), "unknown model preset 'gtp2'; did you mean 'gpt2'? Choices: gpt2-tiny, "),
    (lambda: models.create("tft-160", depth=2), "tft-160 has no size 'depth'; its sizes: heads, layers, context"),
    (lambda: models.create("tft-160", heads=3), "tft-160: 3 heads do not divide its width 160"),
    (lambda: models.create("gpt2-tiny", attention="softmax:nothing"), "unknown attention variant 'softmax:nothing'"),
    (lambda: models.create("vit-tiny", quantization="int8"), "unknown quantization 'int8'"),
    (lambda: models.create("gpt2-tiny", attention_options={"width": 3}), "softmax: unknown option 'width'"),
    (lambda: models.create("gpt2-tiny", position_embedding="rotary"), "position_embedding='rotary' is unknown"),
    (lambda: models.register(models.get("gpt2")), "model preset 'gpt2' is registered already"),
    (lambda: models.family("gpt2-tiny").inputs("gpt2-tiny", batch=1, n=65), "gpt2-tiny has 64 positions, not 65"),
    (lambda: models.family("vit-tiny").inputs("vit-tiny", batch=1, n=16), "vit-tiny reads 17 tokens, not 16"),
    (lambda: models.family("tft-tiny").inputs("tft-tiny", batch=1, n=5), "tft-tiny forecasts 4 steps, not 5"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "vit-tiny", "tft-tiny"])
def test_a_variant_that_cannot_serve_the_preset_is_refused_with_its_reason(preset, monkeypatch):
    arguments = {}

    def why_not(name, **call):
        arguments.update(call)
        return f"{name}: too wide"

    monkeypatch.setattr(attention, "why_not", why_not)
    with pytest.raises(ValueError, match=f"^{preset} can't run on softmax:sdpa: too wide$"):
        models.create(preset, attention="softmax:sdpa", heads=1, dtype=torch.bfloat16)
    width = models.get(preset).hidden
    assert (arguments["heads"], arguments["head_dim"], arguments["dtype"]) == (1, width, torch.bfloat16)


def test_one_head_changes_the_shape_and_not_the_width():
    preset = models.get("tft-160").resized(heads=1)
    assert (preset.heads, preset.kv_heads, preset.head_dim, preset.hidden) == (1, 1, 160, 160)


def test_another_package_adds_a_model_on_the_first_lookup(monkeypatch):
    class Entry:
        loads = 0

        def load(self):
            Entry.loads += 1
            models.register(registry.replace(models.registry._presets["gpt2-tiny"], name="theirs", family="new"),
                            module="models.gpt2")

    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    monkeypatch.setattr(registry, "_modules", dict(registry._modules))
    monkeypatch.setattr(importlib.metadata, "entry_points",
                        lambda group: [Entry()] if group == "attention_perf.models" else [])
    registry._load.cache_clear()
    assert Entry.loads == 0
    model: Any = models.create("theirs", layers=1)
    assert model.config.n_layer == 1
    assert "theirs" in models.presets()
    assert Entry.loads == 1


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second, other = (models.create("tft-tiny", seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
