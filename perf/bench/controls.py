"""Frozen control workloads: small fixed torch programs that no revision changes. What moves them moved the machine.

    for control in of("cuda"):
        call = control.make(device)          # then timed like any workload: clock.prepare(call), sample(clock, plan)

Eight a group, after what limits them, because a machine's clock rates, memory and host do not drift together:

    compute    products of matrices, of batches of them, attention, a convolution
    memory     copies, elementwise work, norms, a softmax, a reduction, a gather
    launch     many kernels of next to no work each, whose time is that of starting them

A benchmark belongs to the group that limits it (perf/verdict/nights.py). Nothing here reads attention/, models/
or an option: inputs are seeded, sizes are written down. Whoever edits anything that a time depends on raises VERSION:
it is part of the names, so that a new series starts. perf/tests/test_controls.py holds this file's hash.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

VERSION = 1
GROUPS = ("compute", "memory", "launch")
DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}
MATMUL = {"cpu": (256, 384, 512), "cuda": (2048, 4096, 6144)}  # n of n x n
ROWS = {"cpu": 1024, "cuda": 16384}  # of rows x COLUMNS
COLUMNS = {"cpu": 1024, "cuda": 4096}
SMALL = 64  # numbers that a launch-bound kernel works on
CHAIN = 64  # of such kernels

Call = Callable[[], Any]
Tensors = Callable[..., torch.Tensor]  # a shape to a seeded tensor


@dataclass(frozen=True)
class Control:
    """`make(device)` gives the call that is timed; its inputs lie there from then on."""

    name: str  # "compute/matmul-4096 v1": group, program, size, version
    group: str
    build: Callable[[str, Tensors], Call]

    def make(self, device: torch.device) -> Call:
        generator = torch.Generator(device).manual_seed(0)
        dtype = DTYPE[device.type]

        def tensor(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        return torch.no_grad()(self.build(device.type, tensor))


def of(device_type: str) -> list[Control]:
    """All controls of "cpu" or "cuda", eight a group."""
    return [Control(f"{group}/{name} v{VERSION}", group, build)
            for group, programs in zip(GROUPS, (_compute(device_type), _memory(), _launch()), strict=True)
            for name, build in programs.items()]


def _compute(device_type: str) -> Mapping[str, Callable[[str, Tensors], Call]]:
    small, middle, large = MATMUL[device_type]
    sizes = {f"matmul-{n}": functools.partial(_matmul, n) for n in (small, middle, large)}
    return {**sizes, "linear-gelu": _linear_gelu, "bmm": _bmm, "sdpa-long": functools.partial(_sdpa, 2),
            "sdpa-short": functools.partial(_sdpa, 8), "conv2d": _conv2d}


def _matmul(n: int, _: str, tensor: Tensors) -> Call:
    a, b = tensor(n, n), tensor(n, n)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _linear_gelu(device_type: str, tensor: Tensors) -> Call:
    n = MATMUL[device_type][0]
    x, w, bias = tensor(n, n), tensor(2 * n, n), tensor(2 * n)
    return lambda: F.gelu(F.linear(x, w, bias))


def _bmm(device_type: str, tensor: Tensors) -> Call:
    n = MATMUL[device_type][0] // 4
    a, b = tensor(16, n, n), tensor(16, n, n)
    return lambda: torch.bmm(a, b)


def _sdpa(batch: int, device_type: str, tensor: Tensors) -> Call:
    """As many tokens whatever the batch."""
    n, heads = (2048 if device_type == "cpu" else 16384) // batch, 2 if device_type == "cpu" else 16
    q, k, v = (tensor(batch, heads, n, 64) for _ in range(3))
    return lambda: F.scaled_dot_product_attention(q, k, v)


def _conv2d(device_type: str, tensor: Tensors) -> Call:
    batch, channels = (1, 32) if device_type == "cpu" else (32, 256)
    x, w = tensor(batch, channels, 56, 56), tensor(channels, channels, 3, 3)
    return lambda: F.conv2d(x, w, padding=1)


def _memory() -> Mapping[str, Callable[[str, Tensors], Call]]:
    def of_one(fn: Callable[[torch.Tensor], Any]) -> Callable[[str, Tensors], Call]:
        def build(device_type: str, tensor: Tensors) -> Call:
            x = tensor(ROWS[device_type], COLUMNS[device_type])
            return lambda: fn(x)

        return build

    return {"copy": of_one(torch.clone), "add": of_one(lambda x: x + x),
            "transpose": of_one(lambda x: x.t().contiguous()), "softmax": of_one(lambda x: x.softmax(-1)),
            "layer-norm": of_one(lambda x: F.layer_norm(x, x.shape[-1:])), "sum": of_one(lambda x: x.sum(-1)),
            "gelu": of_one(F.gelu), "gather": _gather}


def _gather(device_type: str, tensor: Tensors) -> Call:
    rows = ROWS[device_type]
    x = tensor(rows, COLUMNS[device_type])
    index = torch.arange(rows, device=x.device) * 7919 % rows  # a permutation: 7919 is prime, rows a power of two
    return lambda: x[index]


def _launch() -> Mapping[str, Callable[[str, Tensors], Call]]:
    def chain(step: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> Callable[[str, Tensors], Call]:
        def build(_: str, tensor: Tensors) -> Call:
            x = tensor(*(shape or (SMALL,)))

            def call() -> torch.Tensor:
                y = x
                for _ in range(CHAIN):
                    y = step(y)
                return y

            return call

        return build

    return {"mul": chain(lambda x: x * 0.5), "tanh": chain(torch.tanh), "clamp": chain(lambda x: x.clamp(-1, 1)),
            "softmax": chain(lambda x: x.softmax(-1)), "roll": chain(lambda x: x.roll(1)),
            "cat": chain(lambda x: torch.cat([x[1:], x[:1]])), "mm": chain(lambda x: (x @ x).clamp(-1, 1), 16, 16),
            "layer-norm": chain(lambda x: F.layer_norm(x, x.shape[-1:]), 16, 16)}
