"""The switches of the whole process, which a measured call must leave as they are: precision, threads, clocks."""
from __future__ import annotations

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


SWITCHES = {
    "the number of threads": Switch(torch.get_num_threads, torch.set_num_threads),
    "the default dtype": Switch(torch.get_default_dtype, torch.set_default_dtype),
    "whether gradients are recorded": Switch(torch.is_grad_enabled, torch.set_grad_enabled),
    "whether algorithms are deterministic": Switch(torch.are_deterministic_algorithms_enabled,
                                                   torch.use_deterministic_algorithms),
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
    "Python's clock": _attribute(time, "perf_counter"),
    "the wait for the GPU": _attribute(torch.cuda, "synchronize"),
}


def positions() -> Values:
    """Reads all switches."""
    return {name: switch.read() for name, switch in SWITCHES.items()}


def moved(before: Values) -> str | None:
    """Says, in one line, which switch is no longer as it was, and sets all back; None if none moved."""
    sentence = None
    for name, value in positions().items():
        if value != before[name]:
            sentence = sentence or f"changed {name} of the whole process from {before[name]} to {value}"
            SWITCHES[name].write(before[name])
    return sentence
