"""The blocks of the Temporal Fusion Transformer, Lim et al., arXiv 1912.09363, section 4.

Modules and parameters are named as in pytorch-forecasting's `TemporalFusionTransformer`, and, as there,
a width is changed by linear interpolation instead of a matrix. Shape suffixes: B batch, T steps,
N query steps, M key steps, H heads, D head_dim, F hidden width; V variables.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import attention


class Embeddings(nn.Module):
    """A vector for each class of each categorical variable: (B, S) class numbers to (B, S, size)."""

    def __init__(self, classes: Mapping[str, int], size: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({name: nn.Embedding(count, size) for name, count in classes.items()})

    def forward(self, x_BS: torch.Tensor) -> torch.Tensor:
        return torch.stack([table(x) for table, x in zip(self.embeddings.values(), x_BS.unbind(1), strict=True)], 1)


def layer_norm(size: int) -> nn.LayerNorm:
    """The LayerNorm of a width."""
    return NarrowLayerNorm(size) if size % 4 else nn.LayerNorm(size)


class NarrowLayerNorm(nn.LayerNorm):
    """LayerNorm by plain sums. Where a width is no multiple of 4, PyTorch's CUDA kernels give 512 threads to each row
    for its moments, and 256 more to scale it: for 5 features, nearly all of them idle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = centred - centred.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias, (centred * scale).to(x.dtype), self.weight)


class ResampleNorm(nn.Module):
    """Changes the last dimension by linear interpolation, gates every feature, and normalises.

    Interpolation and gates are one product with a matrix: PyTorch's interpolation on CUDA has one thread for each
    output column, which walks through all rows.
    """

    matrix: torch.Tensor

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.mask = nn.Parameter(torch.zeros(output_size))
        self.norm = layer_norm(output_size)
        self.register_buffer("matrix", self._interpolation(), persistent=False)

    def _interpolation(self) -> torch.Tensor:
        return interpolation(self.input_size, self.output_size, self.mask.dtype, self.mask.device)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ResampleNorm:
        """Rounds the exact matrix to the new dtype, not what another dtype left of it."""
        super()._apply(fn, recurse)
        self.matrix = self._interpolation()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(functional.linear(x, self.matrix * (2 * self.mask.sigmoid()).unsqueeze(1)))


def resample_lines(layers: Sequence[ResampleNorm], x_RV: torch.Tensor, weight_VS: torch.Tensor,
                   bias_VS: torch.Tensor) -> torch.Tensor:
    """Gives the outputs of V layers for x weight + bias, x being a column of `x_RV`: (V, R, F), in one product.

    Every feature is a line in x. So is its difference u x + c to the mean of all, and the variance of all is a
    parabola, mean(u²) x² + 2 mean(u c) x + mean(c²): no row has to be looked through for its moments. It is computed in
    float64, for where it is nearly 0 its terms cancel. The product has 8 terms, 6 of them 0, as tensor cores want it.
    """
    gates_VF = 2 * torch.stack([layer.mask for layer in layers]).sigmoid()
    lines_VF2 = (layers[0].matrix @ torch.stack([weight_VS, bias_VS], 2) * gates_VF.unsqueeze(2)).double()
    lines_VF2 = lines_VF2 - lines_VF2.mean(1, keepdim=True)
    square_V22 = lines_VF2.mT @ lines_VF2 / lines_VF2.shape[1]
    x_VR2 = torch.stack([x_RV.t(), torch.ones_like(x_RV.t())], 2).double()
    variance_VR1 = (x_VR2 @ square_V22 * x_VR2).sum(2, keepdim=True)
    gamma_VF, beta_VF = (torch.stack([getattr(layer.norm, name) for layer in layers]) for name in ("weight", "bias"))
    rows_V2F = (lines_VF2 * gamma_VF.unsqueeze(2)).mT
    scale_VR1 = (variance_VR1 + layers[0].norm.eps).rsqrt()
    columns_VR8 = functional.pad((x_VR2 * scale_VR1).to(x_RV.dtype), (0, 6))
    return torch.baddbmm(beta_VF.unsqueeze(1), columns_VR8, functional.pad(rows_V2F.to(x_RV.dtype), (0, 0, 0, 6)))


@functools.cache
def interpolation(input_size: int, output_size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (output_size, input_size) of linear interpolation from end to end, one for all layers of a shape."""
    with torch.inference_mode(False):
        place = torch.linspace(0, input_size - 1, output_size, dtype=torch.float64, device="cpu").unsqueeze(1)
        column = torch.arange(input_size, dtype=torch.float64, device="cpu")
        return (1 - (place - column).abs()).clamp_min(0).to(device, dtype)


class GatedLinearUnit(nn.Module):
    """sigmoid(W x + b) * (U x + c): equation 5."""

    def __init__(self, input_size: int, output_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(input_size, 2 * output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.glu(self.fc(self.dropout(x)), dim=-1)


class AddNorm(nn.Module):
    """LayerNorm(x + skip)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = layer_norm(size)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.norm(x + skip)


class GateAddNorm(nn.Module):
    """LayerNorm(GLU(x) + skip): the skip connection around every block, equation 17."""

    def __init__(self, input_size: int, output_size: int, dropout: float) -> None:
        super().__init__()
        self.glu = GatedLinearUnit(input_size, output_size, dropout)
        self.add_norm = AddNorm(output_size)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.add_norm(self.glu(x), skip)


class GatedResidualNetwork(nn.Module):
    """LayerNorm(x + GLU(W ELU(U x + C context))): equations 2 to 4."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, dropout: float,
                 context_size: int | None = None) -> None:
        super().__init__()
        if input_size != output_size:
            self.resample_norm = ResampleNorm(input_size, output_size)
        self.fc1 = nn.Linear(input_size, hidden_size)
        if context_size is not None:
            self.context = nn.Linear(context_size, hidden_size, bias=False)
        self.fc2 = nn.Linear(hidden_size, hidden_size)
        self.gate_norm = GateAddNorm(hidden_size, output_size, dropout)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None,
                skip: torch.Tensor | None = None) -> torch.Tensor:
        """`skip` is what `resample_norm` gives, where the caller knows a shorter way to it."""
        if skip is None:
            skip = self.resample_norm(x) if hasattr(self, "resample_norm") else x
        x = self.fc1(x)
        if context is not None:
            x = x + self.context(context)
        return self.gate_norm(self.fc2(functional.elu(x)), skip)


class VariableSelectionNetwork(nn.Module):
    """Every variable through its own network, summed with softmax weights: equations 6 to 8.

    Variables with `prescalers`, a Linear(1, size) each, are numbers (..., V). Without, they come embedded:
    (..., V, size). Gives (..., F).
    """

    def __init__(self, names: Sequence[str], size: int, hidden_size: int, prescalers: Mapping[str, nn.Module],
                 dropout: float, context_size: int | None = None) -> None:
        super().__init__()
        if len(names) > 1:  # a single variable is not weighed
            self.flattened_grn = GatedResidualNetwork(len(names) * size, min(hidden_size, len(names)), len(names),
                                                      dropout, context_size)
        self.prescalers = nn.ModuleDict(prescalers)
        self.single_variable_grns = nn.ModuleDict({
            name: GatedResidualNetwork(size, min(size, hidden_size), hidden_size, dropout)
            if prescalers else ResampleNorm(size, hidden_size) for name in names})

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        if self.prescalers:
            x, outputs = self._numbers(x)
        else:
            rows = x.flatten(0, -3).unbind(1)
            outputs = [network(row) for network, row in zip(self.single_variable_grns.values(), rows, strict=True)]
        total = outputs[0]
        if len(outputs) > 1:
            weights_RV = self.flattened_grn(x.flatten(-2), context).softmax(-1).flatten(0, -2)
            weights = weights_RV.unsqueeze(-1).unbind(1)
            total = total * weights[0]
            for output, weight in zip(outputs[1:], weights[1:], strict=True):
                total = torch.addcmul(total, output, weight)
        return total.unflatten(0, x.shape[:-2])

    def _numbers(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """All prescalers at once, (..., V) -> (..., V, size), and what each variable's network gives (R, F)."""
        layers: list[Any] = list(self.prescalers.values())
        networks: list[Any] = list(self.single_variable_grns.values())
        weight_VS = torch.stack([layer.weight[:, 0] for layer in layers])
        bias_VS = torch.stack([layer.bias for layer in layers])
        scaled = torch.addcmul(bias_VS, x.unsqueeze(-1), weight_VS)
        skips: Any = [None] * len(networks)
        if hasattr(networks[0], "resample_norm"):
            resamples = [network.resample_norm for network in networks]
            skips = resample_lines(resamples, x.flatten(0, -2), weight_VS, bias_VS).unbind(0)
        rows = scaled.flatten(0, -3).unbind(1)
        return scaled, [network(row, skip=skip) for network, row, skip in zip(networks, rows, skips, strict=True)]


class InterpretableMultiHeadAttention(nn.Module):
    """Heads with queries and keys of their own that share one value head, averaged: equations 13 to 16.

    The core is any registered attention variant; the one value head is expanded over the heads without
    a copy. Queries are aligned to the end of the keys.
    """

    def __init__(self, variant: str, heads: int, hidden_size: int, dropout: float,
                 options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        head_dim = hidden_size // heads
        self.core = attention.create(variant, heads=heads, head_dim=head_dim, causal=True,
                                     **(options or {}))
        self.q_layers = nn.ModuleList(nn.Linear(hidden_size, head_dim) for _ in range(heads))
        self.k_layers = nn.ModuleList(nn.Linear(hidden_size, head_dim) for _ in range(heads))
        self.v_layer = nn.Linear(hidden_size, head_dim)
        self.w_h = nn.Linear(head_dim, hidden_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries_BNF: torch.Tensor, keys_BMF: torch.Tensor,
                key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        q_BHND = torch.stack([layer(queries_BNF) for layer in self.q_layers], dim=1)
        k_BHMD = torch.stack([layer(keys_BMF) for layer in self.k_layers], dim=1)
        v_BHMD = self.v_layer(keys_BMF).unsqueeze(1).expand_as(k_BHMD)
        heads_BHND = self.dropout(self.core(q_BHND, k_BHMD, v_BHMD, key_mask_BM))
        return self.dropout(self.w_h(heads_BHND.mean(1)))
