"""What a quantisation method is, the one decorator that registers it, and a reason for every "no".

A method is a frozen dataclass: its fields are what can be chosen (`dtype` above all), its class says where it
runs and how one layer is quantised. Optional packages are imported where used; that one is missing is a reason.
"""
from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import nn

MIN_SIDE = 16  # torch._int_mm gives garbage at K = 1, torchao fails on Linear(1, n), and nothing is saved there
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Method:
    """A way to store and multiply the weights of linear layers.

    `dtype` is the compute dtype: that of all that is not quantised, and of what goes into a layer and comes out.
    """

    dtype: torch.dtype = torch.bfloat16

    name: ClassVar[str] = ""
    package: ClassVar[str | None] = None  # that must be installed
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16, torch.float32)
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)  # of layers that it quantises
    trains: ClassVar[bool] = True  # gradients reach the inputs of a quantised layer
    inductor: ClassVar[Mapping[str, Any]] = {}  # options that torch.compile needs to fuse what the method adds

    def refuses_device(self, device: torch.device) -> str | None:
        """Why a device of the right type can't run the method, or None."""
        return None

    def refuses_layer(self, layer: nn.Module) -> str | None:
        """Why a layer with both sides >= MIN_SIDE must stay as it is, or None."""
        return None

    def uncaptured(self, *, compiled: bool) -> str | None:
        """Why a CUDA graph can't capture a forward of the model, eager or compiled; None if it can."""
        return None

    def quantized(self, layer: Any) -> nn.Module:
        """The quantised twin of a layer, which is in `dtype` and on its device."""
        raise NotImplementedError

    def tensors(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        """All that a quantised layer stores, by names that are its own."""
        raise NotImplementedError

    def restore(self, layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts tensors of the same names and shapes into a quantised layer."""
        for name, own in self.tensors(layer).items():
            own.copy_(tensors[name])

    def settings(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {f.name: _short(value) if isinstance(value := getattr(self, f.name), torch.dtype) else value
                for f in fields(self)}


_methods: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Registers a dataclass as the method `name`. Raises ValueError for a name already taken."""
    def add(cls: type[Method]) -> type[Method]:
        if name in _methods:
            raise ValueError(f"quantization method {name!r} is registered already")
        cls.name = name
        _methods[name] = cls
        return cls

    return add


def methods() -> list[str]:
    """The names of all methods, in the order in which they were registered."""
    return list(_methods)


def get(method: str | Method, **settings: Any) -> Method:
    """The method called `method` (or a method itself) with some of its fields set.

    Raises ValueError for an unknown name or field, listing the choices, and for a dtype it can't compute in.
    """
    if isinstance(method, str):
        if method not in _methods:
            close = difflib.get_close_matches(method, _methods, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown quantization {method!r}{hint} Choices: {', '.join(_methods)}")
        method = _methods[method]()
    known = [f.name for f in fields(method)]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{method.name} has no setting {setting!r}; its settings: {', '.join(known)}")
    method = replace(method, **settings)
    if method.dtype not in method.dtypes:
        raise ValueError(f"{method.name} computes in {_listed(method.dtypes)}, not in {_short(method.dtype)}")
    return method


def refuse_gradient(x: torch.Tensor) -> None:
    """Raises RuntimeError for an input of an inference-only layer that wants a gradient: there is none, and what
    stands before the layer would be trained wrongly or not at all."""
    if x.requires_grad and torch.is_grad_enabled():
        trained = ", ".join(name for name, cls in _methods.items() if cls.trains and cls.kinds)
        raise RuntimeError("this quantised layer has no gradient: use torch.no_grad(), train before quantising, or "
                           f"quantise with one that trains ({trained})")


def why_not_here(method: Method, device: str | torch.device) -> str | None:
    """Why a device or what is installed can't run a method, or None."""
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


def _listed(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(map(_short, dtypes))
