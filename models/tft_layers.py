"""The blocks of the Temporal Fusion Transformer, Lim et al., arXiv 1912.09363, section 4.

Modules and parameters are named as in pytorch-forecasting's `TemporalFusionTransformer`, and, as there,
a width is changed by linear interpolation instead of a matrix. Shape suffixes: B batch, T steps,
N query steps, M key steps, H heads, D head_dim, F hidden width; V variables.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import attention


class Embeddings(nn.Module):
    """A vector for each class of each categorical variable: (B, S) class numbers to a dict of (B, size)."""

    def __init__(self, classes: Mapping[str, int], size: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({name: nn.Embedding(count, size) for name, count in classes.items()})

    def forward(self, x_BS: torch.Tensor) -> dict[str, torch.Tensor]:
        tables = self.embeddings.items()
        return {name: table(x) for (name, table), x in zip(tables, x_BS.unbind(1), strict=True)}


class ResampleNorm(nn.Module):
    """Changes the last dimension by linear interpolation, gates every feature, and normalises."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.mask = nn.Parameter(torch.zeros(output_size))
        self.norm = nn.LayerNorm(output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input_size != self.output_size:
            rows = x.reshape(-1, 1, self.input_size)
            rows = functional.interpolate(rows, self.output_size, mode="linear", align_corners=True)
            x = rows.reshape(*x.shape[:-1], self.output_size)
        return self.norm(x * self.mask.sigmoid() * 2)


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
        self.norm = nn.LayerNorm(size)

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

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        skip = self.resample_norm(x) if hasattr(self, "resample_norm") else x
        x = self.fc1(x)
        if context is not None:
            x = x + self.context(context)
        return self.gate_norm(self.fc2(functional.elu(x)), skip)


class VariableSelectionNetwork(nn.Module):
    """Every variable through its own network, summed with softmax weights: equations 6 to 8.

    `prescalers` has a Linear(1, size) for each continuous variable; the others come embedded.
    Takes a dict of (B, T, size) or (B, size) tensors, gives (B, T, F) or (B, F).
    """

    def __init__(self, sizes: Mapping[str, int], hidden_size: int, prescalers: Mapping[str, nn.Module],
                 dropout: float, context_size: int | None = None) -> None:
        super().__init__()
        if len(sizes) > 1:  # a single variable is not weighed
            self.flattened_grn = GatedResidualNetwork(sum(sizes.values()), min(hidden_size, len(sizes)),
                                                      len(sizes), dropout, context_size)
        self.prescalers = nn.ModuleDict({name: prescalers[name] for name in sizes if name in prescalers})
        self.single_variable_grns = nn.ModuleDict({
            name: GatedResidualNetwork(size, min(size, hidden_size), hidden_size, dropout)
            if name in prescalers else ResampleNorm(size, hidden_size)
            for name, size in sizes.items()})

    def forward(self, x: Mapping[str, torch.Tensor], context: torch.Tensor | None = None) -> torch.Tensor:
        scaled = {name: self.prescalers[name](x[name]) if name in self.prescalers else x[name]
                  for name in self.single_variable_grns}
        outputs = torch.stack([grn(scaled[name]) for name, grn in self.single_variable_grns.items()], dim=-1)
        if len(scaled) == 1:
            return outputs.squeeze(-1)
        weights = self.flattened_grn(torch.cat(list(scaled.values()), dim=-1), context).softmax(-1)
        return (outputs * weights.unsqueeze(-2)).sum(-1)


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
