"""`quantize` quantises a model in place; other functions here say whether it can and what it did."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models import registry
from models.quantization import layers
from models.quantization.method import Method, get, why_not_here


@dataclass(frozen=True)
class Quantized:
    """`model.quantization` describes what was done to a model.

    `layers` maps the quantised layers to their shapes, and `kept` maps the layers left alone to the reasons.
    """

    method: Method
    layers: dict[str, list[int]]
    kept: dict[str, str]


def quantize(model: nn.Module, method: str | Method, *, skip: Iterable[str] = (),
             dtype: torch.dtype | None = None) -> nn.Module:
    """Quantises the linear layers in place, each on its device, converts the rest to the method's dtype, and gives
    the model back.

    `skip` names layers, modules around them, or shell patterns, which stay in the method's dtype. The model's output
    layer, layers that share their weight (GPT-2's head), layers with a side below 16 and layers that a library can't
    multiply stay too; `kept_layers` gives the reasons. `dtype` replaces the method's.

    Raises ValueError for an unknown method, a `skip` that names no layer, a model that is quantised already, and, with
    the line of `why_not`, for a method that can't run. Then the model does not change.
    """
    method = get(method, **({} if dtype is None else {"dtype": dtype}))
    if quantized_layers(model):
        raise ValueError(f"the model is quantised already ({model.quantization.method.name}): "  # type: ignore[union-attr]
                         "start from the unquantised one")
    if reason := why_not(method, device=_device(model)):
        raise ValueError(reason)
    chosen, kept = layers.choose(model, method, skip)
    if method.kinds and not chosen:
        raise ValueError(_nothing(method, kept))
    shapes = {name: layers.shape(model.get_submodule(name)) for name in chosen}
    return apply(model, Quantized(method, shapes, kept))


def apply(model: nn.Module, plan: Quantized) -> nn.Module:
    """Carries out a plan on the model, in place."""
    model.to(plan.method.dtype)
    for name in plan.layers:
        layers.replace(model, name, plan.method)
    model.quantization = plan  # type: ignore[assignment]
    if plan.layers and hasattr(model, "save_pretrained"):
        model.save_pretrained = _refuse_to_save  # type: ignore[assignment]
    return model


def _refuse_to_save(*args: Any, **kwargs: Any) -> None:
    """Raises RuntimeError, since `from_pretrained` would take the codes that transformers writes for weights."""
    raise RuntimeError("save_pretrained doesn't know what this model was quantised with: use models.quantization.save")


def quantized_layers(model: nn.Module) -> list[str]:
    """Lists the names of the quantised layers, in a wrapped or copied model too."""
    return [name for name, layer in model.named_modules() if layers.method_of(layer) is not None]


def kept_layers(model: nn.Module) -> dict[str, str]:
    """Lists the layers that were left alone, of the kinds that the method quantises, each with the reason."""
    plan = getattr(model, "quantization", None)
    return dict(plan.kept) if isinstance(plan, Quantized) else {}


def why_not(method: str | Method, *, device: str | torch.device, model: nn.Module | None = None,
            preset: Any = None, dtype: torch.dtype | None = None) -> str | None:
    """Gives the reason, in one line, why a device, a missing package, a model or a preset rules the method out.

    It is None if nothing does. Raises ValueError for an unknown method or preset.
    """
    method = get(method)
    try:
        method = method if dtype is None else get(method, dtype=dtype)
    except ValueError as error:
        return str(error)
    if reason := why_not_here(method, device):
        return reason
    if preset is not None:
        model = _shapes(preset)
    if model is not None and method.kinds:
        chosen, kept = layers.choose(model, method, ())
        if not chosen:
            return _nothing(method, kept)
    return None


def why_not_captured(method: str | Method, *, compiled: bool = False) -> str | None:
    """Gives the reason, in one line, why a CUDA graph can't capture a model quantised like this; None if it can."""
    method = get(method)
    reason = method.refuses_capture(compiled=compiled)
    return f"{method.name}: {reason}" if reason else None


def _nothing(method: Method, kept: dict[str, str]) -> str:
    why = f" (the first, {next(iter(kept))}: {next(iter(kept.values()))})" if kept else ""
    return f"{method.name} finds no layer that it could quantise{why}"


def _shapes(preset: Any) -> nn.Module:
    """Builds the preset's model without memory for weights."""
    with torch.device("meta"):
        return registry.build(preset, device="meta")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
