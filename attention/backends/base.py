"""`Backend` is the base class: a backend computes softmax(scale q kᵀ + bias, masked) v by one family of kernels."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch


@dataclass(frozen=True)
class Case:
    """A case is a kind of call: it holds everything that decides whether a kernel can serve the call."""

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
    deterministic: bool = False  # gradients must repeat to the last bit

    @property
    def values(self) -> int:
        """The width of the values, and of the output."""
        return self.head_dim if self.value_dim is None else self.value_dim

    def few_tokens(self, limit: int = 64) -> Case:
        """Gives the same kind of call with one key/value head and few tokens, n and m in the same order of size."""
        n, m = min(self.n, limit), min(self.m, limit)
        if n == m and self.n != self.m:
            n, m = (n, m + limit) if self.n < self.m else (n + limit, m)
        return replace(self, n=n, m=m, heads=self.heads // self.kv_heads, kv_heads=1)


@dataclass(frozen=True)
class Kernels:
    """These regular expressions tell whether a backend ran.

    They are searched in the names of the device kernels (CUDA) or operators (CPU) of one call. A forward pass must show
    a name that matches one of `forward`, a backward pass one of `backward`, and neither may show one that matches
    `never`. `never` applies to a call of attention alone: a model around it has products of its own.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]
    never: tuple[str, ...] = ()


# Names of PyTorch's operators and of the kernels in CUDA's libraries. Backends choose from them.
PRODUCT = {"cpu": r"^aten::(bmm|mm|addmm|baddbmm|mv|dot)$", "cuda": r"nvjet|gemm|gemv|cutlass::Kernel"}
SOFTMAX = {"cpu": r"^aten::_softmax", "cuda": r"(?i)softmax"}
FUSED = {"cpu": r"^aten::_scaled_dot_product|^CompiledFxGraph$",
         "cuda": r"flash_fwd|flash_bwd|fmha_cutlass|cudnn\w*_sdpa|triton_tem"}

# Plain PyTorch mixes values by a product, but also by a Fourier transform, a sum or a running sum.
_MIX = {"cpu": (PRODUCT["cpu"], r"^aten::(_fft_\w+|sum|mean|cumsum)$"),
        "cuda": (PRODUCT["cuda"], r"fft|reduce_kernel|Scan|scan")}
PLAIN = {device: Kernels(mix, mix, never=(FUSED[device],)) for device, mix in _MIX.items()}


def wants_gradients(*tensors: torch.Tensor) -> bool:
    """Tells whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class Unsupported(ValueError):
    """A backend raises this for a call that its compiler finds no kernel for, which shows only at the call."""


class Backend:
    """A backend computes attention by one family of kernels, for all functions that are registered on it.

    `attend()` returns a callable of the one signature that functions use::

        attend(q_BHND, k_BGMD, v_BGMD, *, scale, band=FULL, visible=None, bias=None, key_mask=None) -> out_BHND

    `band` is a `masks.Band`, `visible(h, i, j)` is any other mask, `bias(h, i, j)` is added to the scaled scores, and
    `key_mask` is bool (B, M), True = keep. Each call of `attend()` returns a new callable, which may store things (a
    compiled kernel, a mask) in its attributes. Some backends take more arguments: `softcap=c` turns a score s into
    c tanh(s / c), and `sinks_H` are logits that join each row's softmax without a value of their own. A backend that
    can't do one of these has no such argument.
    """

    name: str
    probes = False  # one call on a few tokens asks the kernel what it accepts
    compiled = False  # it compiles for each shape, for seconds: tests and default grids use few shapes
    deterministic_backward = True  # False: atomics add gradients in any order
    kernels: Mapping[str, Kernels] = MappingProxyType({})  # the names that a profiler must see, by device type

    def missing(self, device: torch.device) -> str | None:
        """Gives the reason why this backend can't run on `device` at all; None if it can."""
        if device.type == "cuda" and not torch.cuda.is_available():
            return "no CUDA GPU here; choose device cpu"
        return None

    def refuses(self, case: Case) -> str | None:
        """Gives the reason why this backend can't serve `case`, as far as it is clear without a call; else None."""
        return None

    def expects(self, case: Case) -> Kernels | None:
        """Gives the names that a profiler must see of a call of this kind; None if the backend declares none."""
        return self.kernels.get(torch.device(case.device).type)

    def attend(self) -> Callable[..., torch.Tensor]:
        """Returns a new callable that computes attention, with the arguments listed above."""
        raise NotImplementedError

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        """Returns the same as `attend()`, but its gradients repeat to the last bit."""
        return self.attend()

    def scatters(self, case: Case) -> str | None:
        """Gives the reason why the gradients of `case` can't repeat to the last bit; None if they can."""
        if self.deterministic_backward or not case.grad:
            return None
        return "its backward pass adds gradients in any order, and has no other form; pass deterministic=False"

    @contextlib.contextmanager
    def explain(self) -> Iterator[Callable[[], str | None]]:
        """Collects the library's own explanation during a refusal; the callable it yields returns it, or None."""
        yield lambda: None

    def peak_bytes(self, case: Case) -> int:
        """Predicts the peak bytes of a call on one sequence, beyond its inputs.

        They are the output and, with gradients, the gradients of the output and the inputs.
        """
        out = case.heads * case.n * case.values
        inputs = case.heads * case.n * case.head_dim + case.kv_heads * case.m * (case.head_dim + case.values)
        return case.dtype.itemsize * (2 * out + inputs if case.grad else out)


def score_bytes(case: Case, *, forward: float, backward: float) -> int:
    """Counts the bytes of n x m matrices in `case.dtype`, per head `forward` or, with gradients, `backward` of them."""
    matrices = backward if case.grad else forward
    return int(matrices * case.heads * case.n * case.m * case.dtype.itemsize)
