"""PyTorch's dynamic int8 quantisation of nn.Linear and nn.LSTM, for a trained model on the CPU.

`torch.ao.quantization.quantize_dynamic` is deprecated and works on whole models. Here its layers are used one by one,
with its default settings: one scale for a weight matrix, and inputs quantised by their range.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from models.quantization.method import MIN_SIDE, Method, refuse_gradient, register


@register("ptq-int8")
@dataclass(frozen=True)
class DynamicInt8(Method):
    """Dynamic quantisation by `torch.ao.nn.quantized.dynamic` (Jacob et al., arXiv 1712.05877); the rest is float32."""

    dtype: torch.dtype = torch.float32
    devices = ("cpu",)
    dtypes = (torch.float32,)
    kinds = (nn.Linear, nn.LSTM)
    trains = False

    def refuses_layer(self, layer: Any) -> str | None:
        if not isinstance(layer, nn.LSTM):
            return None
        if min(layer.input_size, layer.hidden_size) < MIN_SIDE:
            return f"a side is smaller than {MIN_SIDE}"
        if not layer.bias or layer.bidirectional or layer.proj_size:
            return "an LSTM without biases, bidirectional or with projections"
        return None

    def twin(self, layer: Any) -> nn.Module:
        from torch.ao.nn.quantized import dynamic
        from torch.ao.quantization import default_dynamic_qconfig

        kind = dynamic.LSTM if isinstance(layer, nn.LSTM) else dynamic.Linear
        layer.qconfig = default_dynamic_qconfig
        twin = kind.from_float(layer)
        del layer.qconfig
        twin.register_forward_pre_hook(_refuse_gradient)
        return twin.train(layer.training)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        stored: dict[str, torch.Tensor] = {}
        for name, weight in _weights(layer).items():
            stored |= {name: weight.int_repr(), f"{name}.scale": torch.tensor(weight.q_scale(), dtype=torch.float64),
                       f"{name}.zero_point": torch.tensor(weight.q_zero_point())}
        biases = layer.get_bias() if _recurrent(layer) else {"bias": layer.bias()}
        return stored | {name: bias.detach() for name, bias in biases.items() if bias is not None}

    def restore(self, layer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        weights = {name: torch._make_per_tensor_quantized_tensor(
            tensors[name], tensors[f"{name}.scale"].item(), int(tensors[f"{name}.zero_point"].item()))
            for name in _weights(layer)}
        if _recurrent(layer):
            layer.set_weight_bias({**weights, **{name: tensors[name] for name in layer.get_bias()}})
        else:
            layer.set_weight_bias(weights["weight"], tensors.get("bias"))


def _refuse_gradient(layer: nn.Module, args: tuple[Any, ...]) -> None:
    x = args[0]
    refuse_gradient(x.data if isinstance(x, PackedSequence) else x)


def _weights(layer: Any) -> dict[str, torch.Tensor]:
    return layer.get_weight() if _recurrent(layer) else {"weight": layer.weight()}


def _recurrent(layer: nn.Module) -> bool:
    from torch.ao.nn.quantized import dynamic

    return isinstance(layer, dynamic.LSTM)
