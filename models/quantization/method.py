"""The class of quantisation methods, the decorator that registers them, and a reason for every "no".

A method is a frozen dataclass. Its fields are its settings (above all `dtype`); its class says where it runs and how it
quantises a layer. Optional packages are imported where they are used, and a missing one is a reason.
"""
from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import nn

MIN_SIDE = 16  # torch._int_mm is wrong at K = 1, torchao fails on Linear(1, n), and so small a layer saves nothing
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Method:
    """A method stores and multiplies the weights of linear layers in its own way.

    `dtype` is the compute dtype: that of all other weights, and of the inputs and outputs of a layer.
    """

    dtype: torch.dtype = torch.bfloat16

    name: ClassVar[str] = ""
    package: ClassVar[str | None] = None  # a package that must be installed
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16, torch.float32)
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)  # classes of the layers that it quantises
    trains: ClassVar[bool] = True  # gradients reach the inputs of a quantised layer
    learnt: ClassVar[bool] = False  # it comes near weights that have learnt only: random ones have no structure
    inductor: ClassVar[Mapping[str, Any]] = {}  # options of torch.compile that fuse the method's operations

    def refuses_device(self, device: torch.device) -> str | None:
        """Gives the reason why a device of the right type can't run the method; None if it can."""
        return None

    def refuses_layer(self, layer: nn.Module) -> str | None:
        """Gives the reason why a layer with both sides >= MIN_SIDE must stay as it is; else None."""
        return None

    def refuses_capture(self, *, compiled: bool) -> str | None:
        """Gives the reason why a CUDA graph can't capture the model's forward, eager or compiled; None if it can."""
        return None

    def twin(self, layer: Any) -> nn.Module:
        """Builds the quantised twin of a layer that is in `dtype`, on the same device."""
        raise NotImplementedError

    def tensors(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        """Lists everything that a quantised layer stores, by names of its own."""
        raise NotImplementedError

    def restore(self, layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies tensors of the same names and shapes into a quantised layer."""
        for name, own in self.tensors(layer).items():
            own.copy_(tensors[name])

    def settings(self) -> dict[str, Any]:
        """Gives the fields as values that JSON can hold."""
        return {f.name: _short(value) if isinstance(value := getattr(self, f.name), torch.dtype) else value
                for f in fields(self)}


_methods: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Registers a dataclass as the method `name`. Raises ValueError for a name that exists already."""
    def add(cls: type[Method]) -> type[Method]:
        if name in _methods:
            raise ValueError(f"quantization method {name!r} is registered already")
        cls.name = name
        _methods[name] = cls
        return cls

    return add


def methods() -> list[str]:
    """Lists the names of all methods, in the order of registration."""
    return list(_methods)


def get(method: str | Method, **settings: Any) -> Method:
    """Gives a method, by its name or itself, with some of its fields set.

    Raises ValueError for an unknown name or field, with the choices, and for a dtype it can't compute in.
    """
    if isinstance(method, str):
        if method not in _methods:
            close = difflib.get_close_matches(method, _methods, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown quantization {method!r}{hint} Choices: {', '.join(_methods)}")
        method = _methods[method]()
    names = [f.name for f in fields(method)]
    for setting in settings:
        if setting not in names:
            raise ValueError(f"{method.name} has no setting {setting!r}; its settings: {', '.join(names)}")
    method = replace(method, **settings)
    if method.dtype not in method.dtypes:
        raise ValueError(f"{method.name} computes in {_join(method.dtypes)}, not in {_short(method.dtype)}")
    return method


def refuse_gradient(x: torch.Tensor) -> None:
    """Raises RuntimeError if the input of an inference-only layer wants a gradient.

    The layer has none, so layers before it would be trained wrongly or not at all.
    """
    if x.requires_grad and torch.is_grad_enabled():
        others = ", ".join(name for name, cls in _methods.items() if cls.trains and cls.kinds)
        raise RuntimeError("this quantised layer has no gradient: use torch.no_grad(), train before quantising, or "
                           f"quantise with one that trains ({others})")


def why_not_here(method: Method, device: str | torch.device) -> str | None:
    """Gives the reason why this device can't run a method or its package is missing; None if it can run."""
    device = torch.device(device)
    if method.package and importlib.util.find_spec(method.package) is None:
        return f"{method.name} needs {method.package}, which is not installed: pip install {method.package}"
    if device.type == "meta":
        return None
    if device.type not in method.devices:
        return f"{method.name} runs on {' and '.join(method.devices)}, not on {device.type}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return f"{method.name} on cuda: PyTorch sees no CUDA device here"
    reason = method.refuses_device(device)
    return f"{method.name}: {reason}" if reason else None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _join(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(map(_short, dtypes))
