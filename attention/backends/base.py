"""What a backend is: how one family of kernels computes softmax(scale q kᵀ + bias, masked) v."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch


@dataclass(frozen=True)
class Case:
    """The kind of a call: everything that decides whether a kernel can serve it."""

    device: str
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    n: int
    m: int
    causal: bool
    grad: bool
    key_mask: bool
    options: tuple = ()
    value_dim: int | None = None  # None: as wide as the keys
    deterministic: bool = False  # gradients that repeat to the last bit

    @property
    def values(self) -> int:
        """The width of a value, and of the output."""
        return self.head_dim if self.value_dim is None else self.value_dim

    def few_tokens(self, limit: int = 64) -> Case:
        """The same kind of call, small: one key/value head, few tokens, the same order of n and m."""
        n, m = min(self.n, limit), min(self.m, limit)
        if n == m and self.n != self.m:
            n, m = (n, m + limit) if self.n < self.m else (n + limit, m)
        return replace(self, n=n, m=m, heads=self.heads // self.kv_heads, kv_heads=1)


@dataclass(frozen=True)
class Kernels:
    """What shows that a backend ran: regular expressions, searched in the names of the device kernels (CUDA) or
    operators (CPU) of one call.

    One of `forward` appears in every forward pass, one of `backward` in every backward pass, and in neither any
    of `never`. `never` is for a call of the kernel alone: a model around it has products of its own.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]
    never: tuple[str, ...] = ()


# Names of PyTorch's operators and of the kernels in CUDA's libraries, for the backends to choose from.
PRODUCT = {"cpu": r"^aten::(bmm|mm|addmm|baddbmm|mv|dot)$", "cuda": r"nvjet|gemm|gemv|cutlass::Kernel"}
SOFTMAX = {"cpu": r"^aten::_softmax", "cuda": r"(?i)softmax"}
FUSED = {"cpu": r"^aten::_scaled_dot_product|^CompiledFxGraph$",
         "cuda": r"flash_fwd|flash_bwd|fmha_cutlass|cudnn\w*_sdpa|triton_tem"}

# Other ways in which plain PyTorch mixes values than by a product: by a Fourier transform, a sum, a running sum.
_MIX = {"cpu": (PRODUCT["cpu"], r"^aten::(_fft_\w+|sum|mean|cumsum)$"),
        "cuda": (PRODUCT["cuda"], r"fft|reduce_kernel|Scan|scan")}
PLAIN = {device: Kernels(mix, mix, never=(FUSED[device],)) for device, mix in _MIX.items()}


class Unsupported(ValueError):
    """A call that a backend turns out unable to serve only when it comes to it: its compiler finds no kernel."""


class Backend:
    """Base of all backends.

    `attend()` returns a callable of the one signature that functions use::

        attend(q_BHND, k_BGMD, v_BGMD, *, scale, band=FULL, visible=None, bias=None, key_mask=None) -> out_BHND

    `band` is a `masks.Band`, `visible(h, i, j)` any other mask, `bias(h, i, j)` is added to the scaled scores,
    `key_mask` is bool (B, M), True = keep. Each call of `attend()` gives a fresh one, which may keep state (a compiled
    kernel, a mask) in its attributes. Some know more: `softcap=c` makes a score s c tanh(s / c), `sinks_H` are logits
    that join each row's softmax with no value of their own. What one does not know it has no argument for.
    """

    name: str
    probes = False  # ask the kernel what it accepts by a call on a few tokens
    compiled = False  # compiles once a shape: tests draw few shapes
    deterministic_backward = True  # False: atomics add gradients in any order, unless told otherwise
    kernels: Mapping[str, Kernels] = MappingProxyType({})  # what shows that it ran, by device type

    def missing(self, device: torch.device) -> str | None:
        """Why this backend can't run on `device` at all, whatever the call."""
        if device.type == "cuda" and not torch.cuda.is_available():
            return "no CUDA GPU here; choose device cpu"
        return None

    def refuses(self, case: Case) -> str | None:
        """Why this backend can't serve `case`, as far as it is known without asking the kernel."""
        return None

    def expects(self, case: Case) -> Kernels | None:
        """What a profiler must see of a call of this kind; None where the backend declares nothing."""
        return self.kernels.get(torch.device(case.device).type)

    def attend(self) -> Callable[..., torch.Tensor]:
        raise NotImplementedError

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        """As `attend()`, with gradients that repeat to the last bit."""
        return self.attend()

    def scatters(self, case: Case) -> str | None:
        """Why the gradients of `case` can't be made to repeat to the last bit."""
        if self.deterministic_backward or not case.grad:
            return None
        return "its backward pass adds gradients in any order, and has no other form; pass deterministic=False"

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        """Gathers what the kernel library says while it refuses a call."""
        yield lambda: None

    def peak_bytes(self, case: Case) -> int:
        """Predicted peak bytes of one sequence's call beyond its inputs: the output and, with
        gradients, its gradient and the inputs'."""
        out = case.heads * case.n * case.values
        inputs = case.heads * case.n * case.head_dim + case.kv_heads * case.m * (case.head_dim + case.values)
        return case.dtype.itemsize * (2 * out + inputs if case.grad else out)


def score_bytes(case: Case, *, forward: float, backward: float) -> int:
    """Bytes of `forward` (or `backward`) n x m matrices in `case.dtype` for every head."""
    matrices = backward if case.grad else forward
    return int(matrices * case.heads * case.n * case.m * case.dtype.itemsize)
