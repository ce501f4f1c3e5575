"""Builds forecasters of time series around an attention variant, and gives them TFT's quantiles: five of transformers,
and iTransformer of transformers' layers.

| backbone | paper | where the variant stands |
| --- | --- | --- |
| patchtst | Nie et al., arXiv 2211.14730 | between the patches of the series |
| patchtsmixer | Ekambaram et al., arXiv 2306.09364 | between the patches if `self_attn=True`, else nowhere |
| informer | Zhou et al., arXiv 2012.07436 | in the encoder; transformers' own attention is in the decoder |
| autoformer | Wu et al., arXiv 2106.13008 | everywhere: transformers' own works in float32 alone |
| time-series-transformer | Vaswani et al., arXiv 1706.03762 | in the encoder, as in Informer |
| itransformer | Liu et al., arXiv 2310.06625 | between the variables |
| itransformer, `mixer="mamba"` | S-Mamba: Wang et al., arXiv 2403.11144 | nowhere: `models.mamba` is in its place |

The first two read the context of one series alone, and scale it by itself. So do iTransformer and S-Mamba, which read
what is known ahead too. The other three read that and the static classes. Their decoder reads the context from step
`start` on and zeros for the horizon, and forecasts all of it in one pass (Informer, section 3.3); transformers' own
heads draw samples step by step. All end in one linear layer that gives the quantiles, so that loss and figures are
those of a TFT. `inputs` and `loss` are a TFT's too.

Informer's ProbSparse and Autoformer's auto-correlation are functions of the registry: `probsparse`, `autocorrelation`.
A preset's `layers` are those that the variant stands in. Attention has no dropout, because fused kernels have none.

Shape suffixes: B batch, C context, T context + horizon, N horizon, P patches, F width, K features, Q quantiles.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.autoformer import modeling_autoformer
from transformers.models.informer import modeling_informer
from transformers.models.time_series_transformer import modeling_time_series_transformer

from attention import Attention, create
from models.mamba import BothWays
from models.registry import Preset, get, require
from models.tft import inputs, loss

__all__ = ["build", "inputs", "loss", "tokens"]

EMBEDDED = 4  # numbers that stand for the class of a static variable


class Layer(nn.Module):
    """Puts a variant between the projections of an attention layer of transformers: (B, N, F) -> (B, N, F).

    Where it reads other keys than its own, it reads the first N of them, as Autoformer's code does.
    """

    def __init__(self, layer: Any, core: Attention) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj
        self.core = core

    def forward(self, hidden_states: torch.Tensor, key_value_states: torch.Tensor | None = None,
                **settings: Any) -> tuple[torch.Tensor, None]:
        """Computes attention. Raises ValueError where a setting asks for a mask, a cache or the weights."""
        if any(value is not None and value is not False for value in settings.values()):
            raise ValueError(f"{self.core.name} has no mask, cache or weights here, but got {settings}")
        keys = hidden_states if key_value_states is None else key_value_states[:, :hidden_states.shape[1]]
        q, k, v = (project(x).unflatten(-1, (self.core.heads, -1)).transpose(1, 2) for project, x in
                   ((self.q_proj, hidden_states), (self.k_proj, keys), (self.v_proj, keys)))
        return self.out_proj(self.core(q, k, v).transpose(1, 2).flatten(2)), None


class Forecaster(nn.Module):
    """Forecasts quantiles (B, N, Q) of the first observed variable; the arguments of a call are those of a TFT."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.horizon, self.quantiles = preset.sizes["horizon"], preset.sizes["quantiles"]

    def place(self, preset: Preset, variant: str, options: Mapping[str, Any]) -> None:
        """Puts the variant into every attention layer that may have it, in the order in which they are called."""
        halves = ("encoder", "decoder") if preset.sizes["backbone"] == "autoformer" else ("encoder",)
        length = tokens(preset)
        for name, layer in list(self.named_modules()):
            if hasattr(layer, "q_proj") and not set(halves).isdisjoint(name.split(".")):
                if name.startswith("decoder"):
                    length = preset.sizes["context"] - preset.sizes["start"] + self.horizon
                core = create(variant, heads=preset.heads, head_dim=preset.head_dim, seq_len=length, **options)
                self.set_submodule(name, Layer(layer, core))
                if preset.sizes["backbone"] == "informer":
                    length = (length - 1) // 2 + 1  # each layer but the last halves the series ("distilling")


class Patches(Forecaster):
    """This is PatchTST or PatchTSMixer: layers over the patches of one series, which is scaled by its own deviation."""

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        sizes = preset.sizes
        shape = {"context_length": sizes["context"], "patch_length": sizes["patch"], "patch_stride": sizes["stride"],
                 "num_input_channels": 1, "d_model": preset.hidden, "scaling": "std"}
        if sizes["backbone"] == "patchtst":
            self.model: Any = transformers.PatchTSTModel(transformers.PatchTSTConfig(
                **shape, num_hidden_layers=preset.layers, num_attention_heads=preset.heads, ffn_dim=2 * preset.hidden,
                ff_dropout=sizes["dropout"], positional_dropout=sizes["dropout"], path_dropout=sizes["dropout"]))
        else:
            self.model = transformers.PatchTSMixerModel(transformers.PatchTSMixerConfig(
                **shape, num_layers=preset.layers, dropout=sizes["dropout"], self_attn=sizes["self_attn"],
                self_attn_heads=preset.heads))
        self.output_layer = nn.Linear(tokens(preset) * preset.hidden, self.horizon * len(self.quantiles))

    def forward(self, static_BS: torch.Tensor, known_BTK: torch.Tensor, observed_BCO: torch.Tensor) -> torch.Tensor:
        """Reads the observed variable; the other two have no place in these models."""
        out = self.model(observed_BCO[:, :, :1])
        quantiles_BNQ = self.output_layer(out.last_hidden_state[:, 0].flatten(1)).unflatten(1, (self.horizon, -1))
        return quantiles_BNQ * out.scale + out.loc


class EncoderDecoder(Forecaster):
    """This is Informer, Autoformer or the time-series transformer: an encoder of the context, and a decoder that
    forecasts the whole horizon in one pass."""

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        sizes, backbone, heads, width = preset.sizes, preset.sizes["backbone"], preset.heads, preset.hidden
        self.start = sizes["start"]
        self.embeddings = nn.ModuleList([nn.Embedding(classes, EMBEDDED) for classes in sizes["static"]])
        features = sizes["observed"] + sizes["known"] + EMBEDDED * len(sizes["static"])
        shape = {"context_length": self.start, "prediction_length": sizes["context"] - self.start + self.horizon,
                 "d_model": width, "encoder_layers": preset.layers, "decoder_layers": 1,
                 "encoder_attention_heads": heads, "decoder_attention_heads": heads, "encoder_ffn_dim": 2 * width,
                 "decoder_ffn_dim": 2 * width, "dropout": sizes["dropout"], "activation_dropout": sizes["dropout"],
                 "attention_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "use_cache": False}
        config: Any
        if backbone == "informer":
            home: Any = modeling_informer
            config, name = transformers.InformerConfig(**shape, attention_type="full"), "Informer"
        elif backbone == "autoformer":
            shape["encoder_layers"] -= 2  # of the decoder's one layer, which has the variant too
            home, name = modeling_autoformer, "Autoformer"
            config = transformers.AutoformerConfig(**shape, label_length=0, moving_average=sizes["moving_average"])
        else:
            home, name = modeling_time_series_transformer, "TimeSeriesTransformer"
            config = transformers.TimeSeriesTransformerConfig(**shape)
        config.feature_size = features  # of these inputs, not of transformers' lags
        self.encoder, self.decoder = (getattr(home, f"{name}{half}")(config) for half in ("Encoder", "Decoder"))
        self.trend = self.get_submodule("decoder.layers.0.decomp1") if backbone == "autoformer" else None
        self.output_layer = nn.Linear(features if self.trend else width, len(self.quantiles))

    def forward(self, static_BS: torch.Tensor, known_BTK: torch.Tensor, observed_BCO: torch.Tensor) -> torch.Tensor:
        """Reads all three; the observed variables of the horizon are zeros, the mean of the context."""
        steps, context = known_BTK.shape[1], observed_BCO.shape[1]
        classes = torch.cat([table(static_BS[:, i]) for i, table in enumerate(self.embeddings)], -1)
        ahead_BTK = torch.cat([known_BTK, classes.unsqueeze(1).expand(-1, steps, -1)], -1)
        past_BCK = torch.cat([observed_BCO, ahead_BTK[:, :context]], -1)
        encoded_BCF = self.encoder(inputs_embeds=past_BCK).last_hidden_state

        def decoder_reads(observed_BCO: torch.Tensor) -> torch.Tensor:
            padded_BTO = nn.functional.pad(observed_BCO, (0, 0, 0, steps - context))
            return torch.cat([padded_BTO, ahead_BTK], -1)[:, self.start:]

        if self.trend is None:
            out = self.decoder(inputs_embeds=decoder_reads(observed_BCO), encoder_hidden_states=encoded_BCF)
            return self.output_layer(out.last_hidden_state[:, -self.horizon:])
        seasonal_BCO, trend_BCO = self.trend(observed_BCO)
        mean_BNO = observed_BCO.mean(1, keepdim=True).expand(-1, steps - context, -1)
        trend_BTK = torch.cat([torch.cat([trend_BCO, mean_BNO], 1), ahead_BTK], -1)[:, self.start:]
        out = self.decoder(trend=trend_BTK, inputs_embeds=decoder_reads(seasonal_BCO),
                           encoder_hidden_states=encoded_BCF)
        return self.output_layer((out.last_hidden_state + out.trend)[:, -self.horizon:])


class Variables(Forecaster):
    """This is iTransformer, or S-Mamba: each variable is one token, and layers mix the tokens of all.

    The token of a variable that is known ahead holds the horizon too, as in neuralforecast's iTransformer.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        sizes, width = preset.sizes, preset.hidden
        self.observed = nn.Linear(sizes["context"], width)
        self.known = nn.Linear(sizes["context"] + self.horizon, width)
        config = transformers.TimeSeriesTransformerConfig(
            d_model=width, encoder_attention_heads=preset.heads, encoder_ffn_dim=2 * width, dropout=sizes["dropout"],
            activation_dropout=sizes["dropout"], attention_dropout=0.0, prediction_length=self.horizon)
        self.encoder = nn.ModuleList(modeling_time_series_transformer.TimeSeriesTransformerEncoderLayer(config)
                                     for _ in range(preset.layers))
        for layer in self.encoder if sizes["mixer"] == "mamba" else ():
            layer.self_attn = BothWays(width)
        self.norm = nn.LayerNorm(width)
        self.output_layer = nn.Linear(width, self.horizon * len(self.quantiles))

    def forward(self, static_BS: torch.Tensor, known_BTK: torch.Tensor, observed_BCO: torch.Tensor) -> torch.Tensor:
        """Reads what was observed, each variable scaled by its own deviation, and what is known ahead."""
        mean_BO = observed_BCO.mean(1)
        scale_BO = (observed_BCO.var(1, correction=0) + 1e-5).sqrt()
        x = torch.cat([self.observed((observed_BCO.mT - mean_BO.unsqueeze(-1)) / scale_BO.unsqueeze(-1)),
                       self.known(known_BTK.mT)], 1)
        for layer in self.encoder:
            x = layer(x, attention_mask=None)
        quantiles_BNQ = self.output_layer(self.norm(x)[:, 0]).unflatten(1, (self.horizon, -1))
        return quantiles_BNQ * scale_BO[:, :1, None] + mean_BO[:, :1, None]


KINDS = {"patchtst": Patches, "patchtsmixer": Patches, "informer": EncoderDecoder, "autoformer": EncoderDecoder,
         "time-series-transformer": EncoderDecoder, "itransformer": Variables}


def tokens(preset: str | Preset) -> int:
    """Counts what the first attention layer of the encoder sees: patches, variables, or the steps of the context."""
    sizes = get(preset).sizes
    if "mixer" in sizes:
        return sizes["observed"] + sizes["known"]
    return (sizes["context"] - sizes["patch"]) // sizes["stride"] + 1 if "patch" in sizes else sizes["context"]


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
          attention_options: Mapping[str, Any] | None = None) -> Forecaster:
    """Builds a preset with random weights from `seed`, the same on every device, in eval mode.

    Raises ValueError for an unknown preset or variant, and a variant that can't serve it.
    """
    preset = get(preset)
    options = dict(attention_options or {})
    require(preset, attention, n=tokens(preset), dtype=dtype, device=device, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Forecaster = KINDS[preset.sizes["backbone"]](preset)
        model.place(preset, attention, options)
    return model.to(device=device, dtype=dtype).eval()
