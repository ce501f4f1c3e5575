"""The grids are the only place that says what is measured.

The full grid is a list of sweeps, each an exact product; `default` and `quick` are parts of its
cells. GPU cells keep batch x n at 16 K tokens and heads x head_dim at 2048, as the FlashAttention
papers do (arXiv 2205.14135, 2307.08691).
"""
from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING

from perf.workloads.workload import BARE, BARE_PHASES, GRIDS, ITEM_BYTES, UNQUANTISED, Sweep, Workload

if TYPE_CHECKING:
    from attention.function import Function

ENTRY_POINTS = "attention_perf.workloads"
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
SOME = (1024, 4096, 16384)  # where a coarser look over n is enough
TOKENS = {"cuda": 16384, "cpu": None}  # batch x n of the default grid; None: batch 1 whatever n
HIDDEN = {"cuda": 2048, "cpu": 512}  # heads x head_dim
HEAD_DIMS = {"cuda": (64, 128), "cpu": (64,)}
BATCHES = {"cuda": (1, 2, 4, 8, 16, 32), "cpu": (1, 4)}
DTYPE = {"cuda": "bf16", "cpu": "fp32"}
TRAINING = "train-step"

# Forecasters beside TFT, and the length of what the variant sees in them. Only the full grid has them.
FORECASTERS = {"patchtst-hourly": 20, "patchtsmixer-hourly": 20, "informer-hourly": 168, "autoformer-hourly": 168,
               "time-series-transformer-hourly": 168, "itransformer-hourly": 4}

# Models that are trained here, or that tests use: phase, length, keys, causal. Only a CPU's full grid has them.
SMALL = {
    "gpt2-docstrings": ("prefill", 160, None, True), "gpt2-tiny": ("prefill", 64, None, True),
    "vit-digits": ("forward", 17, None, False), "vit-tiny": ("forward", 17, None, False),
    "vit-tiny-fused": ("forward", 17, None, False), "tft-monthly": ("forward", 12, 48, True),
    "tft-tiny": ("forward", 4, 16, True),
    **{f"{name}-monthly": ("forward", n, None, False) for name, n in (
        ("patchtst", 11), ("patchtsmixer", 11), ("informer", 36), ("autoformer", 36), ("time-series-transformer", 36),
        ("itransformer", 4))},
}

# model, phase, batches, lengths, keys (None: m = n), causal
MODELS: dict[str, tuple[tuple, ...]] = {
    "cuda": (
        ("distilgpt2", "prefill", (1, 8, 32), (1024,), None, True),
        ("distilgpt2", "decode", (1, 8, 32), (1,), 1024, True),
        ("vit-b16", "forward", (1, 8, 32), (197,), None, False),
        ("vit-l16", "forward", (1, 8, 32), (197,), None, False),
        ("tft-160", "forward", (1, 64, 256), (24,), 192, True),
        ("distilgpt2", "train-step", (8,), (1024,), None, True),
        ("vit-b16", "train-step", (32,), (197,), None, False),
        ("tft-160", "train-step", (64,), (24,), 192, True),
        *((name, phase, (64,), (n,), None, False) for name, n in FORECASTERS.items()
          for phase in ("forward", "train-step")),
    ),
    "cpu": (
        ("distilgpt2", "prefill", (1, 4), (64, 256), None, True),
        ("distilgpt2", "decode", (1, 4), (1,), 256, True),
        ("vit-s16", "forward", (1, 4), (197,), None, False),
        ("vit-b16", "forward", (1, 4), (197,), None, False),
        ("tft-160", "forward", (1, 16), (24,), 192, True),
        ("distilgpt2", "train-step", (1,), (64,), None, True),
        ("vit-b16", "train-step", (1,), (197,), None, False),
        ("tft-160", "train-step", (1, 16), (24,), 192, True),
        *((name, phase, (16,), (n,), None, False) for name, n in FORECASTERS.items()
          for phase in ("forward", "train-step")),
        *((name, phase, (16,), (n,), keys, causal) for name, (phase, n, keys, causal) in SMALL.items()),
    ),
}

# The same, and what is done to the model: words for its dtype, its quantization, and "compiled"; none: as it is.
TREATED: dict[str, tuple[tuple, ...]] = {
    "cuda": (
        ("vit-l16", "forward", (1, 32), (197,), None, False, (
            "fp16", "compiled", "bnb-int8", "bnb-nf4", "ao-int8-weight compiled", "ao-int8-dynamic compiled",
            "ao-fp8-dynamic compiled", "ao-int4-weight compiled")),
        ("vit-l16-fused", "forward", (1, 32), (197,), None, False, ("compiled", "ao-fp8-dynamic compiled")),
        ("gpt2", "prefill", (1, 32), (1024,), None, True, (
            "", "fp16", "compiled", "bnb-int8", "bnb-nf4", "ao-int8-dynamic compiled")),
        ("gpt2", "decode", (1, 32), (1,), 1024, True, ("", "compiled", "bnb-nf4", "ao-int8-weight compiled")),
    ),
    "cpu": (
        ("distilgpt2", "prefill", (1,), (256,), None, True, ("bnb-int8",)),
        ("vit-s16", "forward", (1,), (197,), None, False, ("bnb-nf4",)),
        ("vit-b16", "forward", (1,), (197,), None, False, ("ao-int8-dynamic", "bnb-nf4", "compiled")),
        ("tft-160", "forward", (1,), (24,), 192, True, ("ptq-int8",)),
        *((name, "forward", (16,), (n,), None, False, ("ptq-int8",)) for name, n in FORECASTERS.items()),
    ),
}
TREATED_BACKENDS = ("eager", "sdpa")

# Shapes of real models: heads, kv_heads, head_dim, n, m, causal.
SHAPES = (
    (12, 12, 64, 1024, 1024, True),  # GPT-2
    (16, 16, 64, 197, 197, False),  # ViT-L/16
    (32, 8, 128, 2048, 2048, True),  # an 8B model with grouped heads (Llama 3, arXiv 2407.21783)
    (32, 8, 128, 1, 4096, True),  # the same, decoding
    (4, 4, 40, 24, 192, True),  # TFT's attention: 24 steps ahead of 168 behind
)

_registered: list[tuple[Iterable[Workload], tuple[str, ...]]] = []


def register(*added: Sweep | Workload, grids: Iterable[str] = GRIDS) -> None:
    """Adds sweeps or single workloads of another package to the full grid and to `grids`.

    Called by the modules in the entry-point group "attention_perf.workloads".
    """
    for item in added:
        _registered.append((item if isinstance(item, Sweep) else [item], (*grids, "full")))


@functools.cache
def _load() -> None:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def registered(grid: str) -> list[Workload]:
    """Lists what other packages added to `grid`."""
    _load()
    return [w for cells, grids in _registered if grid in grids for w in cells]


def backends(function: str) -> tuple[str, ...]:
    """Lists the backends that `function` is registered on, in registration order."""
    import attention

    return tuple(name.partition(":")[2] for name in attention.names(function=function))


def quantizations() -> tuple[str, ...]:
    """Lists the methods that quantise a model, whatever its weights: the grids' are random. A plain dtype is an axis of
    its own."""
    from models import quantization

    return tuple(name for name in quantization.methods()
                 if name not in ITEM_BYTES and not quantization.get(name).learnt)


def bare_sweeps(device_type: str, *, zoo: bool) -> list[Sweep]:
    """Gives the sweeps of the functions in every grid, or of the `zoo`: those that are measured only where they are
    named."""
    from attention.registry import functions

    return [sweep for function in functions().values() if function.default != zoo
            for sweep in _sweeps_of(function, device_type)]


def _sweeps_of(function: Function, device_type: str) -> Iterator[Sweep]:
    """Yields a core function's sweeps over every phase, head_dim and mask; of another function only the forward pass at
    one head_dim, causal if it can be. Options replace that (`perf.workloads.axes`)."""
    few, core = function.queries, function.core
    head_dims, phases = (HEAD_DIMS[device_type], BARE_PHASES) if core else (HEAD_DIMS[device_type][:1], ("forward",))
    masks = (True, False) if function.name == "softmax" else (function.causal,)  # as language models use them
    for head_dim, phase, keys in product(head_dims, phases, LENGTHS if few else (None,)):
        heads = HIDDEN[device_type] // head_dim
        yield Sweep(BARE, function.name, phase, heads, heads, head_dim, DTYPE[device_type], backends(function.name),
                    masks, BATCHES[device_type], (few,) if few else LENGTHS, keys)


def sweeps(device_type: str) -> list[Sweep]:
    """Gives the sweeps of this project's full grid."""
    import models

    dtype = DTYPE[device_type]
    plain = bare_sweeps(device_type, zoo=False)
    for name, phase, batches, lengths, keys, causal in MODELS[device_type]:
        preset = models.presets()[name]
        plain.append(Sweep(name, "softmax", phase, preset.heads, preset.kv_heads, preset.head_dim, dtype,
                           backends("softmax"), (causal,), batches, lengths, keys))
    return [*plain, *_treated_sweeps(device_type)]


def _treated_sweeps(device_type: str) -> Iterator[Sweep]:
    import models

    for name, phase, batches, lengths, keys, causal, treatments in TREATED[device_type]:
        preset = models.presets()[name]
        for words in map(str.split, treatments):
            dtype = next((word for word in words if word in ITEM_BYTES), DTYPE[device_type])
            method = next((word for word in words if word not in (dtype, "compiled")), UNQUANTISED)
            yield Sweep(name, "softmax", phase, preset.heads, preset.kv_heads, preset.head_dim, dtype,
                        TREATED_BACKENDS, (causal,), batches, lengths, keys, method, "compiled" in words)


def shapes(device_type: str) -> list[Sweep]:
    """Gives real models' shapes, stratified: the forward pass of softmax at batch 1 on every backend."""
    return [Sweep(BARE, "softmax", "forward", heads, kv_heads, head_dim, DTYPE[device_type],
                  backends("softmax"), (causal,), (1,), (n,), m)
            for heads, kv_heads, head_dim, n, m, causal in SHAPES]


def _core(w: Workload) -> bool:
    """Tells whether the function is measured in full; for other functions a few cells are enough."""
    from attention.registry import function

    return function(w.function).core


def _compiles(w: Workload) -> bool:
    """Tells whether the backend compiles for each shape, which takes seconds."""
    from attention.registry import variant

    return variant(w.variant).backend.compiled


def _cuda_default(w: Workload) -> bool:
    """Keeps batch x n fixed. What is slow to run or to compile is measured where it tells most; `full` has it all."""
    if w.model in FORECASTERS:
        return False
    if not w.bare:
        once = w.treatment or w.phase == TRAINING or w.model == "gpt2" or w.dtype != DTYPE["cuda"]
        if w.compiled:  # a minute and a half to compile each: --perf-compiled yes
            return False
        return w.backend in (("sdpa",) if once else ("eager", "sdpa", "sdpa-flash", "fa2"))
    if w.batch * w.m != TOKENS["cuda"]:
        return False
    if not _core(w):
        return w.m in ((4096,) if w.backend == "eager" or _compiles(w) else SOME)
    if w.backend == "checkpointed":
        return w.n == 2048 and w.phase == "forward-backward"
    if w.backend in ("sdpa-math", "tiled"):
        return w.n == 2048 and w.phase == "forward"
    thin = not w.causal or w.head_dim != HEAD_DIMS["cuda"][0]
    if thin and w.n not in (SOME[1:2] if w.phase == "backward" else SOME):
        return False
    if _compiles(w):
        return w.causal and (w.phase == "forward" or (w.head_dim == HEAD_DIMS["cuda"][0] and w.n in SOME))
    return w.backend != "eager" or w.phase == "forward" or w.n <= 4096


def _one_of_a_model(w: Workload) -> bool:
    """Keeps the cheapest row of each model family: its first forward pass, by sdpa."""
    first = {"distilgpt2": "prefill", "vit-b16": "forward", "vit-s16": "forward", "tft-160": "forward"}
    return w.phase == first.get(w.model) and w.batch == 1 and w.backend == "sdpa" and not w.treatment and w.n != 256


def _cuda_quick(w: Workload) -> bool:
    if not w.bare:
        return _one_of_a_model(w)
    return (_core(w) and _cuda_default(w) and w.causal and w.phase == "forward"
            and w.head_dim == 64 and w.n in (1024, 4096) and w.backend not in ("sdpa-math", "tiled"))


def _cpu_default(w: Workload) -> bool:
    """Keeps forward passes to n = 2048, backward passes at one n, and the small ViT, in which attention is 5 %."""
    if not w.bare:
        if w.batch > 1 or w.compiled or w.model == "vit-b16" or (w.phase == TRAINING and w.model != "tft-160"):
            return False
        once = w.treatment or w.phase == TRAINING or w.model == "vit-s16" or w.n == 64
        return w.backend in (("sdpa",) if once else ("eager", "sdpa"))
    if w.batch > 1:
        return False
    if w.function != "softmax":
        return w.m == 512 and w.phase == "forward" and (_core(w) or not _compiles(w))  # that costs 5 to 7 s
    if w.backend == "checkpointed":
        return w.causal and w.n == 512 and w.phase == "forward-backward"
    if w.phase != "forward" or not w.causal:
        return w.n == 512 and w.backend in ("eager", "sdpa", "tiled") and w.causal == (w.phase != "forward")
    if w.backend in ("sdpa", "tiled"):
        return w.n <= 2048
    return w.n == 512 or (w.n == 1024 and w.backend == "eager")


def _cpu_quick(w: Workload) -> bool:
    if not w.bare:
        return _one_of_a_model(w) and _cpu_default(w)
    if not _cpu_default(w) or w.phase != "forward" or (_compiles(w) and w.function != "softmax"):
        return False
    return w.causal and _core(w) and w.n in (512, 1024)


PARTS: dict[tuple[str, str], Callable[[Workload], bool]] = {
    ("cuda", "default"): _cuda_default, ("cuda", "quick"): _cuda_quick,
    ("cpu", "default"): _cpu_default, ("cpu", "quick"): _cpu_quick,
}


def grid(name: str, device_type: str, *, with_shapes: bool = False, with_zoo: bool = False) -> list[Workload]:
    """Gives the workloads of grid `name` on "cuda" or "cpu", backends of one shape next to one another."""
    keep = PARTS.get((device_type, name), lambda w: True)
    cells = [*(w for sweep in sweeps(device_type) for w in sweep if keep(w)), *registered(name)]
    if with_zoo:
        cells += [w for sweep in bare_sweeps(device_type, zoo=True) for w in sweep if keep(w)]
    if with_shapes:
        cells += [w for sweep in shapes(device_type) for w in sweep]
    return order(cells)


def order(cells: Iterable[Workload]) -> list[Workload]:
    """Drops duplicates, and puts all phases and backends of one shape together: they share a reference."""
    together: dict[Workload, dict[Workload, None]] = {}
    for cell in cells:
        together.setdefault(cell.shape, {})[cell] = None
    return [cell for group in together.values() for cell in group]
