"""Chooses the layers of a model that a method quantises, and replaces them."""
from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from models.quantization.method import MIN_SIDE, Method

# The last layer turns features into the answer. LLM.int8() and QLoRA do not quantise it, and fine-tuning trains it.
HEADS = ("lm_head", "classifier", "score", "output_layer")
# An attention kernel reads the outputs of these layers, and operations on them can't be fused into it.
ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj", "qkv", "c_attn", "query", "key", "value")


def choose(model: nn.Module, method: Method, skip: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Lists the layers to quantise, and the other layers of these kinds, each with the reason why it is left alone.

    A layer in two places has its first name. Raises ValueError for a `skip` that names no layer.
    """
    patterns = tuple(skip)
    if isinstance(skip, str):
        patterns = (skip,)
    chosen: list[str] = []
    left_alone: dict[str, str] = {}
    used = set()
    owners = _owners(model)
    for name, layer in _layers(model, method):
        hits = {pattern for pattern in patterns if matches(name, pattern)}
        used |= hits
        reason = f"skip={min(hits)!r}" if hits else _refusal(name, layer, method, owners)
        if reason:
            left_alone[name] = reason
        else:
            chosen.append(name)
    if method.kinds and (idle := [pattern for pattern in patterns if pattern not in used]):
        some = ", ".join([*chosen, *left_alone][:4])
        raise ValueError(f"skip={idle[0]!r} names no layer that {method.name} could quantise; some of those: {some}")
    return chosen, left_alone


def matches(name: str, pattern: str) -> bool:
    """Tells whether a pattern is the layer's name, a module around it, or a shell pattern of its name."""
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


def replace(model: nn.Module, name: str, method: Method) -> None:
    """Replaces a layer by its quantised twin in all its places."""
    old = model.get_submodule(name)
    new = method.twin(as_linear(old))
    new.quantized_by = method  # type: ignore[assignment]
    new.feeds_attention = name.rpartition(".")[2] in ATTENTION_INPUTS  # type: ignore[assignment]
    for place, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, child = place.rpartition(".")
            setattr(model.get_submodule(parent), child, new)


def method_of(layer: nn.Module) -> Method | None:
    """Gives the method that quantised this layer; None if it is not quantised."""
    return vars(layer).get("quantized_by")


def as_linear(layer: nn.Module) -> nn.Module:
    """Turns transformers' Conv1D, a Linear with a transposed weight, into the Linear; gives other layers back."""
    if not _is_conv1d(layer):
        return layer
    weight_IO: Any = layer.weight
    inputs, outputs = weight_IO.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(weight_IO.detach().t().contiguous(), requires_grad=weight_IO.requires_grad)
    linear.bias = layer.bias  # type: ignore[assignment]
    return linear.train(layer.training)


def shape(layer: nn.Module) -> list[int]:
    """Gives [outputs, inputs] of a linear layer, or [layers, hidden, inputs] of an LSTM."""
    if isinstance(layer, nn.LSTM):
        return [layer.num_layers, layer.hidden_size, layer.input_size]
    rows, columns = layer.weight.shape  # type: ignore[misc]
    return [columns, rows] if _is_conv1d(layer) else [rows, columns]


def _layers(model: nn.Module, method: Method) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        # The type must be exact, since a subclass may be used in another way (nn.MultiheadAttention's is).
        head = name.rpartition(".")[2] in HEADS and isinstance(layer, nn.Linear)
        if type(layer) in method.kinds or (nn.Linear in method.kinds and (head or _is_conv1d(layer))):
            yield name, layer


def _refusal(name: str, layer: nn.Module, method: Method, owners: dict[int, list[str]]) -> str | None:
    """Gives the reason why a layer must be left alone; None if it can be quantised."""
    if name.rpartition(".")[2] in HEADS:
        return "the model's output"
    shared = {other for p in layer.parameters() for other in owners[id(p)] if other != name}
    if shared:
        return f"its weight is that of {min(shared)} too"
    if not isinstance(layer, nn.LSTM):
        if min(shape(layer)) < MIN_SIDE:
            return f"a side is smaller than {MIN_SIDE}"
        outputs, inputs = shape(layer)
        layer = nn.Linear(inputs, outputs, device="meta")  # a Conv1D becomes this Linear
    return method.refuses_layer(layer)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Lists for each parameter the modules that own it; a module in two places counts once."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def _is_conv1d(layer: nn.Module) -> bool:
    module = sys.modules.get("transformers.pytorch_utils")  # if it is not imported, no layer is one
    return module is not None and isinstance(layer, module.Conv1D)

