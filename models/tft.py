"""Temporal Fusion Transformer, Lim et al., arXiv 1912.09363.

A compact module with the parameter names of pytorch-forecasting's `TemporalFusionTransformer`, so that
its state_dict loads (`loss` and `logging_metrics` have no parameters). The attention core is any
registered variant: `horizon` queries, aligned to the end of the keys.

What a query sees: the paper masks "features preceding it" and its authors' code lets a step see itself
too; pytorch-forecasting hides the query's own step. With `own_step=True` (the default, the authors')
the keys are all context + horizon steps, attended causally. With `own_step=False` the last step, which
no query may see, is left out of the keys: causal attention over context + horizon - 1 keys is exactly
"all steps before my own".

Shape suffixes: B batch, C context, T context + horizon, N horizon, F width, S/K/O static, known and
observed variables, Q quantiles.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.backends.cudnn import rnn as cudnn_rnn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.registry import Preset, get, require
from models.tft_layers import (
    AddNorm,
    Embeddings,
    GateAddNorm,
    GatedLinearUnit,
    GatedResidualNetwork,
    InterpretableMultiHeadAttention,
    VariableSelectionNetwork,
)


class TemporalFusionTransformer(nn.Module):
    """Quantile forecasts (B, N, Q) from static categories, known and observed series.

    `static`, `known` and `observed` name the variables; `static` maps each to its number of classes.
    """

    def __init__(self, variant: str, *, hidden: int, heads: int, layers: int, variable: int, horizon: int,
                 static: Mapping[str, int], known: list[str], observed: list[str],
                 quantiles: tuple[float, ...] = (0.1, 0.5, 0.9), dropout: float = 0.1, own_step: bool = True,
                 options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.horizon, self.own_step, self.quantiles = horizon, own_step, quantiles
        self.known, self.observed = known, observed

        def network(context: int | None = None) -> GatedResidualNetwork:
            return GatedResidualNetwork(hidden, hidden, hidden, dropout, context)

        self.input_embeddings = Embeddings(static, variable)
        self.prescalers = nn.ModuleDict({name: nn.Linear(1, variable) for name in known + observed})
        self.static_variable_selection = self._selection(list(static), hidden, variable, dropout)
        self.encoder_variable_selection = self._selection(known + observed, hidden, variable, dropout, hidden)
        self.decoder_variable_selection = self._selection(known, hidden, variable, dropout, hidden)
        self.static_context_variable_selection = network()
        self.static_context_initial_hidden_lstm = network()
        self.static_context_initial_cell_lstm = network()
        self.static_context_enrichment = network()
        between = dropout if layers > 1 else 0.0
        self.lstm_encoder = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=between)
        self.lstm_decoder = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=between)
        # Encoder and decoder share this gate, under both names.
        self.post_lstm_gate_encoder = self.post_lstm_gate_decoder = GatedLinearUnit(hidden, hidden, dropout)
        self.post_lstm_add_norm_encoder = self.post_lstm_add_norm_decoder = AddNorm(hidden)
        self.static_enrichment = network(hidden)
        self.multihead_attn = InterpretableMultiHeadAttention(variant, heads, hidden, dropout, options)
        self.post_attn_gate_norm = GateAddNorm(hidden, hidden, dropout)
        self.pos_wise_ff = network()
        self.pre_output_gate_norm = GateAddNorm(hidden, hidden, 0.0)
        self.output_layer = nn.Linear(hidden, len(quantiles))

    def _selection(self, names: list[str], hidden: int, variable: int, dropout: float,
                   context: int | None = None) -> VariableSelectionNetwork:
        scalers = {name: self.prescalers[name] for name in names if name in self.prescalers}
        return VariableSelectionNetwork(names, variable, hidden, scalers, dropout, context)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TemporalFusionTransformer:
        """Moved or converted, each weight of an LSTM lies by itself again."""
        super()._apply(fn, recurse)
        flatten_weights(self.lstm_encoder)
        flatten_weights(self.lstm_decoder)
        return self

    def forward(self, static_BS: torch.Tensor, known_BTK: torch.Tensor, observed_BCO: torch.Tensor,
                lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """Static class numbers, known variables for context + horizon, observed ones for the context.

        `lengths_B` counts the valid steps of each context, which stand at its start; the rest is padding.
        """
        context = observed_BCO.shape[1]
        static = self.static_variable_selection(self.input_embeddings(static_BS))
        selection = self.static_context_variable_selection(static).unsqueeze(1)
        past_BCV = torch.cat([known_BTK[:, :context], observed_BCO], dim=2)
        past_BCF = self.encoder_variable_selection(past_BCV, selection)
        future_BNF = self.decoder_variable_selection(known_BTK[:, context:], selection)

        state = tuple(network(static).expand(self.lstm_encoder.num_layers, -1, -1).contiguous() for network in
                      (self.static_context_initial_hidden_lstm, self.static_context_initial_cell_lstm))
        encoded, state = self._encode(past_BCF, state, lengths_B)
        decoded, _ = self.lstm_decoder(future_BNF, state)
        gated_BTF = self.post_lstm_gate_encoder(torch.cat([encoded, decoded], dim=1))
        local_BTF = self.post_lstm_add_norm_encoder(gated_BTF, torch.cat([past_BCF, future_BNF], dim=1))

        enrichment = self.static_context_enrichment(static).unsqueeze(1)
        enriched_BTF = self.static_enrichment(local_BTF, enrichment)
        queries_BNF = enriched_BTF[:, context:]
        keys_BMF = enriched_BTF if self.own_step else enriched_BTF[:, :-1]
        key_mask_BM = None
        if lengths_B is not None:
            step = torch.arange(keys_BMF.shape[1], device=keys_BMF.device)
            key_mask_BM = (step < lengths_B[:, None]) | (step >= context)
        attended = self.multihead_attn(queries_BNF, keys_BMF, key_mask_BM)
        attended = self.post_attn_gate_norm(attended, queries_BNF)
        output = self.pre_output_gate_norm(self.pos_wise_ff(attended), local_BTF[:, context:])
        return self.output_layer(output)

    def _encode(self, x_BCF: torch.Tensor, state: Any, lengths_B: torch.Tensor | None) -> Any:
        if lengths_B is None:
            return self.lstm_encoder(x_BCF, state)
        packed = pack_padded_sequence(x_BCF, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        packed, state = self.lstm_encoder(packed, state)
        return pad_packed_sequence(packed, batch_first=True, total_length=x_BCF.shape[1])[0], state


def names(preset: Preset) -> tuple[dict[str, int], list[str], list[str]]:
    """Names of a preset's static variables (with their classes), known and observed ones."""
    sizes = preset.sizes
    return ({f"static{i}": classes for i, classes in enumerate(sizes["static"])},
            [f"known{i}" for i in range(sizes["known"])], [f"observed{i}" for i in range(sizes["observed"])])


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
          attention_options: Mapping[str, Any] | None = None) -> TemporalFusionTransformer:
    """A preset with random weights from `seed`, in eval mode.

    Raises ValueError for an unknown preset or variant, and one that can't serve the preset (one head of
    width 160 is more than some kernels take).
    """
    preset = get(preset)
    sizes, options = preset.sizes, attention_options or {}
    n, m = sizes["horizon"], sizes["context"] + sizes["horizon"] - (not sizes["own_step"])
    require(preset, attention, n=n, m=m, dtype=dtype, device=device, **options)
    static, known, observed = names(preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TemporalFusionTransformer(
            attention, hidden=preset.hidden, heads=preset.heads, layers=preset.layers,
            variable=sizes["variable"], horizon=n, static=static, known=known, observed=observed,
            quantiles=sizes["quantiles"], dropout=sizes["dropout"], own_step=sizes["own_step"], options=options)
    return model.to(device=device, dtype=dtype).eval()


def flatten_weights(lstm: nn.Module) -> None:
    """Puts the weights of an LSTM on a GPU one behind the other, as cuDNN reads them; else it copies them together at
    every call. `nn.LSTM.flatten_parameters` does so too, but not in bfloat16."""
    if isinstance(lstm, nn.LSTM) and lstm.weight_ih_l0.is_cuda:
        weights = [weight for layer in lstm.all_weights for weight in layer]
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(tuple(weights), len(lstm.all_weights[0]), lstm.input_size,
                                            cudnn_rnn.get_cudnn_mode(lstm.mode), lstm.hidden_size, lstm.proj_size,
                                            lstm.num_layers, lstm.batch_first, lstm.bidirectional)


def inputs(preset: str | Preset, *, batch: int, n: int | None = None, device: str | torch.device = "cpu",
           dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded inputs: standard normal series, random classes. `n` may only be the preset's horizon."""
    preset = get(preset)
    sizes = preset.sizes
    if n not in (None, sizes["horizon"]):
        raise ValueError(f"{preset.name} forecasts {sizes['horizon']} steps, not {n}: change its horizon")
    random = torch.Generator().manual_seed(seed)
    steps = sizes["context"] + sizes["horizon"]
    static = torch.stack([torch.randint(classes, (batch,), generator=random)
                          for classes in sizes["static"]], dim=1)
    known = torch.randn(batch, steps, sizes["known"], generator=random)
    observed = torch.randn(batch, sizes["context"], sizes["observed"], generator=random)
    return {"static_BS": static.to(device), "known_BTK": known.to(device, dtype),
            "observed_BCO": observed.to(device, dtype)}


def forecast(model: TemporalFusionTransformer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Quantile forecasts (B, N, Q) in increasing order of the quantiles.

    The heads are trained apart and may cross; sorting them never raises the quantile loss (Chernozhukov et al.,
    arXiv 0704.3649).
    """
    return model(**inputs).sort(-1).values


def quantile_loss(forecast_BNQ: torch.Tensor, target_BN: torch.Tensor,
                  quantiles: tuple[float, ...]) -> torch.Tensor:
    """Mean pinball loss over batch, steps and quantiles: equation 24 of the paper."""
    errors = (target_BN.unsqueeze(-1) - forecast_BNQ).unbind(-1)
    # The levels stay numbers: a tensor of them would be copied to the device, which a CUDA graph can't record.
    return torch.stack([torch.maximum(q * x, (q - 1) * x) for q, x in zip(quantiles, errors, strict=True)]).mean()


def loss(model: TemporalFusionTransformer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Quantile loss against the first observed variable's last `horizon` steps, the naive forecast:
    a target that needs no data beyond `inputs`. On a GPU the LSTM's backward needs `model.train()`."""
    target_BN = inputs["observed_BCO"][:, -model.horizon:, 0]
    return quantile_loss(model(**inputs), target_BN, model.quantiles)


@dataclass(frozen=True)
class Work:
    """The least that a forward pass takes: `flops` and `numbers` in and out of one series, `weights` of the model.

    FLOPs are those of products with weights, 2 for each weight and row that it multiplies, in linear layers and
    LSTMs. Attention's own products, the prescalers and interpolation are left out.
    """

    flops: int
    weights: int
    numbers: int


def work(preset: str | Preset) -> Work:
    """Counts on tensors without numbers."""
    model, flops = shapes(preset), 0

    def count(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal flops
        rows = args[0].shape[:-1].numel()
        flops += 2 * rows * sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2)

    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.LSTM)):
            layer.register_forward_hook(count)
    x = {name: x.to("meta") for name, x in inputs(preset, batch=1).items()}
    with torch.no_grad():
        out = model(**x)
    return Work(flops, sum(weight.numel() for weight in model.parameters()),
                sum(each.numel() for each in (*x.values(), out)))


def shapes(preset: str | Preset) -> nn.Module:
    """The model of a preset without the numbers of its weights."""
    with torch.device("meta"):
        return build(preset, device="meta")
