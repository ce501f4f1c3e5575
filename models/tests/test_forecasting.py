"""The forecasters: the variant stands in their layers, all else is transformers', or iTransformer's and S-Mamba's."""
from __future__ import annotations

from typing import Any

import pytest
import torch

import models
from attention import Attention
from models import attention_layers, forecasting, parts, quantization
from models.data import split
from models.losses import loss

MONTHLY = [name for name, preset in models.presets().items()
           if preset.family == "forecasting" and name.endswith("-monthly")]


def both(preset, monkeypatch, variant="softmax:eager", **options):
    """Builds a preset in float64 around a variant, and the same weights around transformers' own attention."""
    dtype = torch.float32 if "auto" in preset.name else torch.float64  # theirs has no other there
    ours = models.create(preset, attention=variant, attention_options=options, dtype=dtype)
    monkeypatch.setattr(forecasting.Forecaster, "place", lambda *_: None)
    theirs = models.create(preset, dtype=dtype)
    assert not any(isinstance(module, Attention) for module in theirs.modules())
    theirs.load_state_dict(parts.sharpen(ours).state_dict())
    return ours, theirs, forecasting.inputs(preset, batch=3, dtype=dtype)


@pytest.mark.parametrize("name", MONTHLY)
def test_the_variant_has_the_place_of_transformers_attention(name, monkeypatch):
    preset = models.get(name)
    options = {}
    if "auto" in name:  # each head of ours chooses its own delays, theirs chooses for all heads together
        preset, options = preset.resized(heads=1), {"factor": 3}
    function = "autocorrelation" if options else "softmax"
    ours, theirs, inputs = both(preset, monkeypatch, f"{function}:eager", **options)
    with torch.no_grad(), attention_layers.record() as calls:
        torch.testing.assert_close(ours(**inputs), theirs(**inputs))
    assert attention_layers.check(calls, function, layers=preset.layers, causal=False, **options).ok


@pytest.mark.parametrize("name", MONTHLY)
def test_a_training_step_reaches_every_weight_and_lowers_the_loss(name):
    model = models.create(name, attention="softmax:sdpa").train()
    inputs, target = split(models.get(name))[0].batch(torch.arange(8))
    before = loss(model, models.get(name), inputs, target)
    before.backward()
    unused = [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not unused
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert loss(model, models.get(name), inputs, target) < before


@pytest.mark.parametrize("name", MONTHLY)
def test_nothing_of_the_horizon_but_what_is_known_ahead_is_read(name):
    model, train = models.create(name), split(models.get(name))[0]
    inputs, target = train.batch(torch.arange(4))
    with torch.no_grad():
        forecast = model(**inputs)
        assert forecast.shape == (*target.shape, 3)
        ahead = model(**{**inputs, "known_BTK": inputs["known_BTK"].clone().index_fill_(1, torch.tensor([40]), 9.0)})
    assert torch.equal(forecast, ahead) == name.startswith("patch")


@pytest.mark.parametrize("name", MONTHLY)
@pytest.mark.parametrize("method", ["ptq-int8", "bnb-nf4", "ao-int8-weight"])
def test_their_linear_layers_are_quantised_but_the_last(name, method):
    model = models.create(name, quantization=method, dtype=torch.float32)
    done = quantization.quantized_layers(model)
    assert len(done) >= 4 * models.get(name).layers
    assert "output_layer" not in done
    inputs = forecasting.inputs(name, batch=3)
    with torch.no_grad():
        exact = models.create(name)(**inputs)
        off = ((model(**inputs) - exact).square().mean() / exact.square().mean()).sqrt()
    assert 0 < off < 0.5


def test_itransformer_is_pytorchs_encoder_over_its_variables():
    preset = models.get("itransformer-monthly")
    model: Any = parts.sharpen(models.create(preset)).double()
    inputs = forecasting.inputs(preset, batch=3, dtype=torch.float64)
    observed_BC, known = inputs["observed_BCO"][..., 0], inputs["known_BTK"]
    mean, scale = observed_BC.mean(1), (observed_BC.var(1, correction=0) + 1e-5).sqrt()
    x = torch.stack([model.observed((observed_BC - mean[:, None]) / scale[:, None]),
                     *(model.known(known[..., i]) for i in range(3))], 1)
    for layer in model.encoder:
        same = torch.nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, dtype=torch.float64)
        own, attend = layer.state_dict(), same.self_attn
        with torch.no_grad():
            for kind in ("weight", "bias"):
                getattr(attend, f"in_proj_{kind}").copy_(torch.cat([own[f"self_attn.{part}_proj.{kind}"]
                                                                    for part in "qkv"]))
                getattr(attend.out_proj, kind).copy_(own[f"self_attn.out_proj.{kind}"])
        same.linear1, same.linear2 = layer.fc1, layer.fc2
        same.norm1, same.norm2 = layer.self_attn_layer_norm, layer.final_layer_norm
        x = same(x)
    forecast = model.output_layer(model.norm(x[:, 0])).unflatten(1, (12, 3)) * scale[:, None, None]
    torch.testing.assert_close(model(**inputs), forecast + mean[:, None, None])


def test_s_mamba_reads_every_variable_and_has_no_place_for_a_variant():
    preset = models.get("itransformer-monthly").resized(mixer="mamba")
    model, inputs = models.create(preset), forecasting.inputs(preset, batch=2)
    assert not any(isinstance(module, Attention) for module in model.modules())
    with torch.no_grad():
        before = model(**inputs)
        for variable in range(3):
            known = inputs["known_BTK"].clone()
            known[..., variable] += torch.linspace(0, 1, known.shape[1])
            assert not torch.equal(model(**{**inputs, "known_BTK": known}), before)


def test_a_mixer_without_attention_has_no_place_for_a_variant():
    preset = models.get("patchtsmixer-monthly").resized(self_attn=False)
    assert not any(isinstance(module, Attention) for module in models.create(preset).modules())
