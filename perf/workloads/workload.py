"""A workload is one thing to time; a sweep is a product of them by construction."""
from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from perf.system import files
from perf.workloads import families

BARE = families.KERNELS.test  # the model of a workload that is an attention kernel alone
GRIDS = ("quick", "default", "full")
BARE_PHASES = ("forward", "backward", "forward-backward")
GRADIENTS = ("backward", "forward-backward", "train-step")  # phases that compute gradients
UNQUANTISED = "none"  # of `Workload.quantization`
ITEM_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}

# Attention FLOPs relative to the forward pass: the backward pass recomputes q k^T and takes four
# more products of the same size (FlashAttention-2, arXiv 2307.08691, section 4.1).
ATTENTION_COST = {"backward": 2.5, "forward-backward": 3.5, "train-step": 3.5}
FORMULA = "FLOPs = 4 B H D x visible query-key pairs; backward 2.5x, forward-backward 3.5x"
MODEL_FORMULA = ("of a model, per layer, + 24 B n d^2 (projections and MLP of width 4 d; heads and embeddings "
                 "not counted), of a TFT + 2 for each weight and row of its linear layers and LSTMs; train-step 3x")


@dataclass(frozen=True)
class Workload:
    """Is a thing to time, in plain scalars.

    `model` is "attention" for a bare kernel, else a preset of `models`. `heads` are query heads,
    `kv_heads` key/value heads, `n` queries and `m` keys of one sequence. `quantization` is a method of
    `models.quantization`, `compiled` whether torch.compile has the whole model: both of models only.
    What was recorded before there were these two has their defaults, in evidence, ids and asv's axes.
    """

    model: str
    function: str
    backend: str
    phase: str
    causal: bool
    batch: int
    heads: int
    kv_heads: int
    n: int
    m: int
    head_dim: int
    dtype: str
    quantization: str = UNQUANTISED
    compiled: bool = False

    @property
    def variant(self) -> str:
        return f"{self.function}:{self.backend}"

    @property
    def bare(self) -> bool:
        return self.model == BARE

    @property
    def needs_grad(self) -> bool:
        """Tells whether a call computes gradients."""
        return self.phase in GRADIENTS

    @property
    def id(self) -> str:
        """Names the workload, unlike any other; it is the id of the pytest item."""
        model = "" if self.bare else f"{self.model}-"
        mask = "causal" if self.causal else "full"
        treated = "".join(f"-{word}" for word in self.treatment)
        return (f"{model}{self.variant}-{self.phase}-{mask}-b{self.batch}-h{self.heads}-kv{self.kv_heads}"
                f"-n{self.n}-m{self.m}-d{self.head_dim}-{self.dtype}{treated}")

    @property
    def treatment(self) -> tuple[str, ...]:
        """Lists what was done to the model: its quantization, "compiled", both or nothing."""
        method = () if self.quantization == UNQUANTISED else (self.quantization,)
        return (*method, "compiled") if self.compiled else method

    @property
    def plain(self) -> Workload:
        """Gives the same model as it is, neither quantised nor compiled."""
        return replace(self, quantization=UNQUANTISED, compiled=False)

    @property
    def group(self) -> Workload:
        """Keeps what is the same for all backends that may be compared with one another."""
        return replace(self, backend="")

    @property
    def shape(self) -> Workload:
        """Keeps what is the same for all backends, phases and treatments that share their inputs."""
        return replace(self.plain, backend="", phase="")

    @property
    def flops(self) -> int | None:
        """Counts the floating-point operations of one call, by `FORMULA` and `MODEL_FORMULA`; None for a model of
        unknown work."""
        head = _head_flops(self.function, self.n, self.m, self.head_dim, self.causal)
        attention = int(self.batch * self.heads * head * ATTENTION_COST.get(self.phase, 1))
        if self.bare:
            return attention
        from models import presets

        preset = presets()[self.model]
        if families.family(self.model).transformer:
            matmuls = 24 * self.batch * self.n * (self.heads * self.head_dim) ** 2
        elif work := _work(self.model):
            matmuls = self.batch * work.flops
        else:
            return None
        return preset.layers * (attention + matmuls * (3 if self.phase == "train-step" else 1))

    @property
    def bytes(self) -> int | None:
        """Counts the fewest bytes one call moves: inputs (and a model's weights) read once, outputs (and the gradients
        of weights) written once. None for a model of unknown work, and for a quantised one."""
        if not self.bare:
            if self.quantization != UNQUANTISED or not (work := _work(self.model)):
                return None
            weights = work.weights * (2 if self.phase == "train-step" else 1)
            return ITEM_BYTES[self.dtype] * (weights + self.batch * work.numbers)
        queries = self.batch * self.heads * self.n * self.head_dim  # q, out and their gradients each
        keys = self.batch * self.kv_heads * self.m * self.head_dim  # k, v and their gradients each
        traffic = {"forward": 2 * queries + 2 * keys,  # q, k, v; out
                   "backward": 4 * queries + 4 * keys,  # q, k, v, out, dout; dq, dk, dv
                   "forward-backward": 4 * queries + 4 * keys}  # q, k, v, dout; out, dq, dk, dv
        return ITEM_BYTES[self.dtype] * traffic[self.phase]


FIELDS = tuple(field.name for field in fields(Workload))
SIZES = ("batch", "heads", "kv_heads", "n", "m", "head_dim")


def from_record(record: Mapping[str, Any]) -> Workload:
    """Makes the workload that a text from outside describes. Raises TypeError or ValueError, in one line, for none."""
    w = Workload(**record)
    files.check_types(w)
    for name in SIZES:
        if getattr(w, name) < 1:
            raise ValueError(f"{name} = {getattr(w, name)}: must be at least 1")
    return w


@functools.cache
def _head_flops(function: str, n: int, m: int, head_dim: int, causal: bool) -> int:
    from attention.registry import functions

    known = functions()[function]
    return known.forward_flops(n, m, head_dim, causal, **known.options)


@functools.cache
def _work(model: str) -> Any:
    """Gives the work that a family counts (`models.tft.work`); None where it counts none or can't be imported."""
    import models

    if families.family(model).transformer:
        return None
    try:
        count = getattr(models.family(model), "work", None)
    except ImportError:
        return None
    return count(model) if count else None


@dataclass(frozen=True)
class Sweep:
    """Holds workloads that differ in causal, n, batch and backend only: their product, in that order. `keys` fixes m;
    None means m = n."""

    model: str
    function: str
    phase: str
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    backends: tuple[str, ...]
    causal: tuple[bool, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    keys: int | None = None
    quantization: str = UNQUANTISED
    compiled: bool = False

    def __iter__(self) -> Iterator[Workload]:
        axes = itertools.product(self.causal, self.lengths, self.batches, self.backends)
        for causal, n, batch, backend in axes:
            yield Workload(self.model, self.function, backend, self.phase, causal, batch, self.heads,
                           self.kv_heads, n, self.keys or n, self.head_dim, self.dtype, self.quantization,
                           self.compiled)


def parse_length(text: str) -> int:
    """Reads "8k" as 8192, "197" as 197. Raises ValueError unless it is a positive whole number."""
    digits = text.strip().lower()
    factor = 1024 if digits.endswith("k") else 1
    number = digits.removesuffix("k")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise ValueError(f"{text!r} is not a length; give a whole number of at least 1, such as 512, 2048 or 8k")
    return int(number) * factor
