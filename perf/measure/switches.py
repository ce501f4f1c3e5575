"""The switches of the whole process, which a measured call must leave as they are: precision, threads, clocks, the seed
and the environment. To draw random numbers changes no switch; to seed does."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Values = dict[str, Any]


class Switch(NamedTuple):
    """A setting that the whole process shares."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> Switch:
    return Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _stream(value: torch.cuda.Stream | None) -> None:
    if value is not None:
        torch.cuda.set_stream(value)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in COMPILERS}


def _set_environment(value: dict[str, str]) -> None:
    for name in {*_environment(), *value}:
        if name in value:
            os.environ[name] = value[name]
        else:
            del os.environ[name]


# What torch, Triton and their profiler write into the environment whenever they compile or profile.
COMPILERS = ("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "TRITON_CACHE_DIR", "CUDA_MODULE_LOADING", "KINETO_LOG_LEVEL",
             "TEARDOWN_CUPTI", "DISABLE_CUPTI_LAZY_REINIT", "TORCHINDUCTOR_CACHE_DIR")

SWITCHES = {
    "the number of threads": Switch(torch.get_num_threads, torch.set_num_threads),
    "the default dtype": Switch(torch.get_default_dtype, torch.set_default_dtype),
    "whether gradients are recorded": Switch(torch.is_grad_enabled, torch.set_grad_enabled),
    "whether algorithms are deterministic": Switch(torch.are_deterministic_algorithms_enabled,
                                                   torch.use_deterministic_algorithms),
    "the seed of random numbers": Switch(torch.initial_seed, torch.manual_seed),
    "whether cuDNN tries its algorithms": _attribute(torch.backends.cudnn, "benchmark"),
    "the precision of fp32 products on a GPU": _attribute(torch.backends.cuda.matmul, "fp32_precision"),
    "the precision of fp32 products on a CPU": _attribute(torch.backends.mkldnn.matmul, "fp32_precision"),  # type: ignore[attr-defined]
    "the sums of bf16 products": _attribute(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    "the sums of fp16 products": _attribute(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    "the precision of fp32 convolutions": _attribute(torch.backends.cudnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    "whether small numbers become zero": Switch(lambda: (torch.full((1,), 1e-40) * 1).item() == 0,
                                                torch.set_flush_denormal),
    "PyTorch's choice of attention kernels": Switch(
        lambda: (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled(),
                 torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()),
        lambda value: [write(on) for write, on in zip(
            (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp,
             torch.backends.cuda.enable_math_sdp, torch.backends.cuda.enable_cudnn_sdp), value, strict=True)]),
    "the current stream": Switch(lambda: torch.cuda.current_stream() if torch.cuda.is_initialized() else None, _stream),
    "the environment": Switch(_environment, _set_environment),
    "Python's clock": _attribute(time, "perf_counter"),
    "the wait for the GPU": _attribute(torch.cuda, "synchronize"),
}


def positions() -> Values:
    """Reads all switches."""
    return {name: switch.read() for name, switch in SWITCHES.items()}


def restore(before: Values) -> str | None:
    """Says, in one line, which switch is no longer as it was, and sets all back; None if none moved."""
    sentence = None
    for name, value in positions().items():
        if value != before[name]:
            sentence = sentence or f"changed {_change(name, before[name], value)}"
            set_back(name, before)
    return sentence


def set_back(name: str, before: Values) -> None:
    """Sets one switch to where it was."""
    SWITCHES[name].write(before[name])


def _change(name: str, old: Any, new: Any) -> str:
    if not isinstance(old, dict):
        return f"{name} of the whole process from {old} to {new}"
    changed = sorted(variable for variable in {*old, *new} if old.get(variable) != new.get(variable))
    return f"{name} of the whole process: {', '.join(changed)}"  # a value may be a secret
