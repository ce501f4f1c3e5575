"""`fused` compiles a whole variant in plain PyTorch (torch.compile; Ansel et al., PyTorch 2, ASPLOS 2024).

The operations around a function's products (rotations, feature maps, prefix sums, changes of dtype) become a few
kernels instead of one kernel each. Every shape is compiled once.
"""
from __future__ import annotations

from collections.abc import Callable

import torch

from attention.backends.base import SOFTMAX, Backend, Kernels
from attention.backends.compiling import compiled, no_compiler, refusals

# On the CPU the profiler names the compiled graph, not the kernels in it.
_GRAPH, _OWN = ("^CompiledFxGraph$",), (r"^triton_(?!tem)",)
KERNELS = {"cpu": Kernels(_GRAPH, _GRAPH, never=(SOFTMAX["cpu"],)),
           "cuda": Kernels(_OWN, _OWN, never=(SOFTMAX["cuda"],))}


class Fused(Backend):
    """This backend compiles the function together with its kernel, so `attend` takes the function itself."""

    name = "fused"
    compiled = True
    kernels = KERNELS

    def missing(self, device: torch.device) -> str | None:
        return no_compiler(device) or super().missing(device)

    def attend(self) -> Callable[..., torch.Tensor]:
        return Whole()


class Whole:
    """An instance holds the compiled function of one caller."""

    def __init__(self) -> None:
        self.function: Callable[..., torch.Tensor] | None = None

    def __call__(self, compute: Callable[..., torch.Tensor], inner: Backend | None, q: torch.Tensor, k: torch.Tensor,
                 v: torch.Tensor, **options: object) -> torch.Tensor:
        if self.function is None:
            attend = None if inner is None else inner.attend()
            self.function = compiled(lambda *qkv, **options: compute(attend, *qkv, **options), dynamic=False)
        with refusals("fused", q, k):
            return self.function(q, k, v, **options)


def whole(compute: Callable[..., torch.Tensor], inner: Backend | None = None) -> Callable[..., torch.Tensor]:
    """Makes the computation to register on `fused`: `compute`, with the kernel of `inner` if it uses one."""
    def call(attend: Whole, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> torch.Tensor:
        return attend(compute, inner, q, k, v, **options)

    return call


fused = Fused()
