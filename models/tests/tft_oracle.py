"""pytorch-forecasting's Temporal Fusion Transformer with the weights of ours: a test-only oracle.

Run with `python -m models.tests.tft_oracle` and pytorch-forecasting 1.8.0 installed, it prints the frozen
forecasts of test_tft.py.
"""
from __future__ import annotations

import torch
from torch import nn

import models
from models import tft
from models.registry import Preset


def preset(**sizes: object) -> Preset:
    return models.get("tft-tiny").resized(own_step=False, **sizes)


def numbers(shape: torch.Size, start: int) -> torch.Tensor:
    """Numbers in -1 ... 1 as irregular as random ones, from whole-number arithmetic: no generator to change."""
    i = torch.arange(start, start + shape.numel())
    return ((i * i * 40503 + i * 25173 + 13849) % 65521).double().reshape(shape) / 32760 - 1


def fill(model: nn.Module) -> None:
    """Every weight from a formula, large enough for every part of the model to matter."""
    with torch.no_grad():
        for j, (name, weight) in enumerate(sorted(model.named_parameters())):
            fan_in = weight.shape[-1] if weight.dim() > 1 else 2
            weight.copy_(3 * numbers(weight.shape, 1000 * j) / fan_in ** 0.5 + ("norm.weight" in name))


def formula_inputs(preset: Preset, *, batch: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Inputs of the shapes of `tft.inputs`, from a formula."""
    x = tft.inputs(preset, batch=batch, dtype=dtype)
    classes = torch.tensor(preset.sizes["static"])
    static = torch.arange(batch * len(classes)).reshape(batch, -1) % classes
    return {"static_BS": static, **{name: 2 * numbers(x[name].shape, start).to(dtype)
                                    for name, start in (("known_BTK", 50), ("observed_BCO", 777))}}


def forecast(preset: Preset, state: dict[str, torch.Tensor], x: dict[str, torch.Tensor]) -> torch.Tensor:
    """The forecasts (B, N, Q) of pytorch-forecasting's model with the weights `state`."""
    from pytorch_forecasting import TemporalFusionTransformer

    static, known, observed = tft.names(preset)
    sizes = preset.sizes
    model = TemporalFusionTransformer(
        hidden_size=preset.hidden, lstm_layers=preset.layers, dropout=sizes["dropout"],
        output_size=len(sizes["quantiles"]), attention_head_size=preset.heads,
        max_encoder_length=sizes["context"], static_categoricals=list(static),
        time_varying_reals_encoder=known + observed, time_varying_reals_decoder=known,
        x_reals=known + observed, x_categoricals=list(static), hidden_continuous_size=sizes["variable"],
        embedding_sizes={name: (classes, sizes["variable"]) for name, classes in static.items()},
        output_transformer=lambda out: out["prediction"])
    model = model.to(x["known_BTK"].dtype).eval()
    model.load_state_dict(state)  # strict: the parameter names are the same

    B, T, _ = x["known_BTK"].shape
    context = x["observed_BCO"].shape[1]
    unseen = x["known_BTK"].new_zeros(B, T - context, len(observed))  # the decoder never reads these
    reals = torch.cat([x["known_BTK"], torch.cat([x["observed_BCO"], unseen], 1)], 2)
    classes = x["static_BS"].unsqueeze(1).expand(-1, T, -1)
    lengths = x.get("lengths_B", torch.full((B,), context))
    with torch.no_grad():
        return model({"encoder_cat": classes[:, :context], "decoder_cat": classes[:, context:],
                      "encoder_cont": reals[:, :context], "decoder_cont": reals[:, context:],
                      "encoder_lengths": lengths, "decoder_lengths": torch.full((B,), T - context),
                      "target_scale": torch.tensor([[0.0, 1.0]]).repeat(B, 1)})["prediction"]


if __name__ == "__main__":
    model = tft.build(preset(), dtype=torch.float64)
    fill(model)
    torch.set_printoptions(precision=10)
    print(forecast(preset(), model.state_dict(), formula_inputs(preset(), batch=2, dtype=torch.float64)))
