"""Counts the bytes of a model, and writes and reads models as safetensors files, all by the same list of tensors.

A quantised layer lists the tensors that it stores; the rest is the state of modules. A tensor in two places (tied
weights, a layer used twice) counts once and is written once.
"""
from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import registry
from models.quantization import layers
from models.quantization.method import get, why_not_here
from models.quantization.quantize import Quantized, apply, quantized_layers

FORMAT = "attention-perf model 1"


def model_bytes(model: nn.Module, prefix: str = "") -> int:
    """Counts the bytes of the storages behind the model's weights and persistent buffers, each once.

    `prefix` limits the count to one module, such as `"vit.layers"`. Raises ValueError if there is no such module.
    """
    if prefix not in dict(model.named_modules(remove_duplicate=False)):
        raise ValueError(f"the model has no module {prefix!r}")
    inside = [x for _, x in stored(model.get_submodule(prefix))]  # a list: see _first_names
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in inside}.values())


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes the model to one safetensors file. An older file is replaced when the new one is complete."""
    from safetensors.torch import save_file

    plan = getattr(model, "quantization", None)
    description = None if plan is None else {"method": plan.method.name, "settings": plan.method.settings(),
                                             "layers": plan.layers, "kept": plan.kept}
    first = _first_names(model)
    tensors = {name: x.detach().contiguous() for name, x in stored(model) if first[name] == name}
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={"format": FORMAT, "quantization": json.dumps(description)})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], model: Any, **settings: Any) -> nn.Module:
    """Loads a saved model into `model` and gives it back, quantised as the saved one was.

    `model` is an unquantised model of the same shapes or the name of a preset, which is built with `settings` as by
    `registry.build`. Raises FileNotFoundError, and ValueError, in one line, for a file that is truncated, of another
    format or of another model, and for a method that can't run here. Then the model does not change.
    """
    path = Path(path)
    if not isinstance(model, nn.Module):
        model = registry.build(model, **settings)
    elif settings:
        raise ValueError(f"load: {', '.join(settings)}: settings go with a preset's name, not with a built model")
    description, tensors = _read(path)
    plan = _plan(path, description, model)
    _require_same(path, tensors, model, plan)
    if plan is not None:
        apply(model, plan)
    with torch.no_grad():
        for name in plan.layers if plan else ():
            layer = model.get_submodule(name)
            inside = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
            layers.method_of(layer).restore(layer, inside)  # type: ignore[union-attr]
        for name, x in _unquantized(model, plan).items():
            x.copy_(tensors[name])
    return model


def stored(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every tensor that the model stores, with its name.

    A module in two places comes once; tied weights come twice.
    """
    quantized: list[str] = []
    for name, module in model.named_modules():
        if name.startswith(tuple(quantized)):
            continue
        if (method := layers.method_of(module)) is not None:
            quantized.append(f"{name}.")
            own = method.tensors(module)
        else:
            own = {**dict(module.named_parameters(recurse=False)),
                   **{key: x for key, x in module.named_buffers(recurse=False)
                      if key not in module._non_persistent_buffers_set}}
        yield from ((f"{name}.{key}" if name else key, x) for key, x in own.items())


def _first_names(model: nn.Module) -> dict[str, str]:
    """Gives for the name of every stored tensor the first name of that tensor, which is its name in a file."""
    names, tensors = {}, list(stored(model))  # a list, so that no storage is freed and its address used again
    first: dict[tuple, str] = {}
    for name, x in tensors:
        key = (x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride(), x.dtype)
        names[name] = first.setdefault(key, name)
    return names


def _unquantized(model: nn.Module, plan: Quantized | None) -> dict[str, torch.Tensor]:
    """Gives the tensors outside the layers of a plan, each under its first name."""
    first = _first_names(model)
    inside = tuple(f"{name}." for name in plan.layers) if plan else ()
    return {name: x for name, x in stored(model) if first[name] == name and not name.startswith(inside)}


def _quantized(model: nn.Module, plan: Quantized) -> dict[str, torch.Tensor]:
    """Gives tensors of the shapes that the layers of a plan will store; one layer of each kind is quantised."""
    kinds: dict[tuple, dict[str, torch.Tensor]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in plan.layers.items():
        layer = layers.as_linear(model.get_submodule(name))
        kind = (type(layer), *shape, layer.bias is not None)
        if kind not in kinds:
            kinds[kind] = plan.method.tensors(plan.method.twin(copy.deepcopy(layer).to(plan.method.dtype)))
        tensors |= {f"{name}.{key}": x for key, x in kinds[kind].items()}
    return tensors


def _read(path: Path) -> tuple[dict[str, Any] | None, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}): save it again") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by models.quantization.save (format {metadata.get('format')!r})")
    return json.loads(metadata["quantization"]), tensors


def _plan(path: Path, description: dict[str, Any] | None, model: nn.Module) -> Quantized | None:
    """Gives the plan that makes the file fit the model. Raises ValueError if it can't be carried out."""
    if quantized_layers(model):
        raise ValueError(f"{path}: load it into an unquantised model, which becomes quantised as the saved one was")
    if description is None:
        return None
    settings = dict(description["settings"])
    settings["dtype"] = getattr(torch, settings["dtype"], settings["dtype"])
    try:
        method = get(description["method"], **settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if reason := why_not_here(method, device):
        raise ValueError(f"{path}: {reason}")
    modules = dict(model.named_modules())
    for name, shape in description["layers"].items():
        if name not in modules:
            raise ValueError(f"{path} is of another model: this one has no layer {name}")
        if (own := layers.shape(modules[name])) != shape:
            raise ValueError(f"{path} is of another model: {name} is {shape} there and {own} here")
    return Quantized(method, description["layers"], description["kept"])


def _require_same(path: Path, tensors: dict[str, torch.Tensor], model: nn.Module, plan: Quantized | None) -> None:
    """Raises ValueError if the file's tensors differ from those of the model after the plan."""
    plain = _unquantized(model, plan)
    own = {**plain, **(_quantized(model, plan) if plan else {})}
    for name in [*own, *tensors]:
        if name not in tensors:
            raise ValueError(f"{path} is of another model: it lacks {name}")
        if name not in own:
            raise ValueError(f"{path} is of another model: this one has no {name}")
        if own[name].shape != tensors[name].shape:
            raise ValueError(f"{path} is of another model: {name} is {list(tensors[name].shape)} there and "
                             f"{list(own[name].shape)} here")
        dtype = plan.method.dtype if plan and name in plain and own[name].is_floating_point() else own[name].dtype
        if dtype != tensors[name].dtype:
            raise ValueError(f"{path}: {name} is {tensors[name].dtype} there and {dtype} here: build the model in "
                             "that dtype")
