"""An attention variant may give the same bits whatever stands beside a row, or may not; and it may race.

Each check compares the results of calls that must agree mathematically. A difference is given relative to the largest
value; 0 means the same bits.

| check | the same |
|---|---|
| repeats | call, `--runs` times |
| alone | sequence, alone and in a batch |
| neighbours | sequence, other values in the others of its batch |
| padding | keys, behind 1 and behind 17 masked ones |
| longer | rows, with more tokens behind them that they do not see |
| graph | call, launched and replayed from its CUDA graph |
| producer | call, right behind kernels that still write its inputs |

A sum in another order differs in its last bits: that is the price of a kernel which splits its work by the shape of a
batch. `producer` and, where a backend promises it, `repeats` may not differ at all: that is a race.
"""
from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

import attention
from attention.registry import variant
from attention.testing import inputs
from perf.bench.kernels import keep_buffers
from perf.measure.cuda_graph import Uncapturable, capture
from perf.system.tools import first_line

CHECKS = ("repeats", "alone", "neighbours", "padding", "longer", "graph", "producer")  # methods of `_Examination`
PHASES = ("forward", "backward")
PADDINGS = 1, 17  # masked keys
MORE = 32  # tokens behind
LATE = 0.05  # seconds for which a host thread may still write after its call
BUSY = 20_000_000  # cycles for which a producer keeps the stream busy before it writes

Tensors = Sequence[torch.Tensor]
Difference = float | None  # None: the check has no meaning here


@dataclass(frozen=True)
class Case:
    """Holds the shape that is examined, and the device."""

    device: torch.device
    dtype: torch.dtype
    batch: int = 4
    heads: int = 4
    n: int = 256
    head_dim: int = 64


@dataclass(frozen=True)
class Finding:
    """Holds the differences of one variant in one phase, by check; or the `reason` why it can't be examined."""

    variant: str
    phase: str
    differences: Mapping[str, Difference] = field(default_factory=dict)
    reason: str | None = None

    @property
    def faults(self) -> list[str]:
        """Lists the checks that may not show any difference, and do."""
        promised = self.phase == "forward" or variant(self.variant).backend.deterministic_backward
        return [check for check in ("repeats", "producer")
                if self.differences.get(check) and (promised or check == "producer")]


def examine(name: str, phase: str, case: Case, runs: int) -> Finding:
    """Makes all checks of a variant in one phase: "forward", or "backward" for the gradients of a whole pass."""
    described = variant(name).function
    try:
        if reason := attention.why_not(name, device=case.device, dtype=case.dtype, heads=case.heads,
                                       head_dim=case.head_dim, n=_queries(name, case), m=case.n,
                                       causal=described.causal, grad=phase == "backward"):
            return Finding(name, phase, reason=reason)
        if phase == "backward":
            keep_buffers()
        on_gpu = case.device.type == "cuda"  # no CUDA graph can capture the default stream
        with torch.cuda.stream(torch.cuda.Stream(case.device)) if on_gpu else nullcontext():
            return Finding(name, phase, dict(_Examination(name, phase, case, runs).differences()))
    except Exception as error:  # of kernels and compilers: any; the others are examined all the same
        return Finding(name, phase, reason=f"{type(error).__name__}: {first_line(error)}")


def _queries(name: str, case: Case) -> int:
    return variant(name).function.queries or case.n


class _Examination:
    """Examines one variant in one phase on fixed inputs."""

    def __init__(self, name: str, phase: str, case: Case, runs: int) -> None:
        self.name, self.phase, self.case, self.runs = name, phase, case, runs
        self.function = variant(name).function
        self.modules: dict[int, attention.Attention] = {}  # by the number of keys
        self.q, self.k, self.v = inputs(batch=case.batch, heads=case.heads, n=_queries(name, case), m=case.n,
                                        head_dim=case.head_dim, dtype=case.dtype, device=case.device)
        self.grad_out = inputs(batch=case.batch, heads=case.heads, n=self.q.shape[2], head_dim=case.head_dim,
                               dtype=case.dtype, device=case.device, seed=1)[0]

    def differences(self) -> Iterator[tuple[str, Difference]]:
        """Yields each check and what it shows."""
        for name in CHECKS:
            yield name, getattr(self, name)()

    @functools.cached_property
    def whole(self) -> Tensors:
        """Gives the result on all inputs."""
        return self._call(self.q, self.k, self.v, self.grad_out)

    def repeats(self) -> Difference:
        """Copies each result at once and reads it again later, when work that nobody waited for has changed it."""
        results, copies = [], []
        for _ in range(self.runs):
            results.append(self._call(self.q, self.k, self.v, self.grad_out))
            copies.append([x.clone() for x in results[-1]])
        _let_late_work_end(self.case.device)
        return max(_difference(copies[0], x) for x in (*copies, *results))

    def alone(self) -> Difference:
        first = [x[:1].contiguous() for x in (self.q, self.k, self.v, self.grad_out)]
        return _difference([x[:1] for x in self.whole], self._call(*first))

    def neighbours(self) -> Difference:
        changed = [torch.cat([x[:1], 3 - 2 * x[1:].flip(0)]) for x in (self.q, self.k, self.v, self.grad_out)]
        return _difference([x[:1] for x in self.whole], [x[:1] for x in self._call(*changed)])

    def padding(self) -> Difference:
        """Puts masked keys before the others, so that a causal query sees the same ones."""
        if not self.function.padding or self._refuses(key_mask=True):
            return None
        one, other = (self._exact(self.q, *self._with_padding(count)) for count in PADDINGS)
        if not torch.allclose(one, other):
            return None
        return _difference(*(self._with_masked_keys(count) for count in PADDINGS))

    def longer(self) -> Difference:
        """Adds tokens behind, which the causal mask hides from those before, and which send them no gradient."""
        if not self.function.causal or self.function.queries:
            return None
        n = self.case.n
        more = [torch.cat([x, x[:, :, :MORE]], 2) for x in (self.q, self.k, self.v)]
        more.append(torch.cat([self.grad_out, torch.zeros_like(self.grad_out[:, :, :MORE])], 2))
        if self._refuses(n=n + MORE) or not torch.allclose(self._exact(self.q, self.k, self.v),
                                                           self._exact(*more[:3])[:, :, :n]):
            return None
        return _difference(self.whole, [x[:, :, :n] for x in self._call(*more)])

    def graph(self) -> Difference:
        if self.case.device.type != "cuda":
            return None
        call = functools.partial(self._call, self.q, self.k, self.v, self.grad_out)
        call()
        try:
            replay = capture(call)
        except Uncapturable:
            return None
        return _difference(self.whole, replay())

    def producer(self) -> Difference:
        """Writes the inputs on the call's stream by kernels that start late; nothing waits for them but the stream."""
        if self.case.device.type != "cuda":
            return None
        last, worst = [x.clone() for x in (self.q, self.k, self.v, self.grad_out)], 0.0
        for _ in range(self.runs):
            inputs_late = [torch.zeros_like(x) for x in last]
            torch.cuda.synchronize(self.case.device)
            torch.cuda._sleep(BUSY)
            for x, value in zip(inputs_late, last, strict=True):
                x.copy_(value)
            result = self._call(*inputs_late)
            copies = [x.clone() for x in result]  # in the stream, right behind the call
            torch.cuda.synchronize(self.case.device)
            worst = max(worst, _difference(self.whole, copies))
            for x in result:  # the next result may get this memory, where it must not find the right one
                x.untyped_storage().fill_(255)  # type: ignore[attr-defined]  # NaN in any floating-point dtype
        return worst

    def _exact(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               key_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Evaluates the formula, which may itself depend on the length or on masked keys."""
        with torch.no_grad():
            return attention.oracle(self.name, q, k, v, causal=self.function.causal, key_mask=key_mask)

    def _with_padding(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gives keys, values and the mask of keys, of which the first `count` are masked."""
        k, v = (torch.cat([torch.full_like(x[:, :, :count], 2.0), x], 2) for x in (self.k, self.v))
        mask = torch.arange(k.shape[2], device=k.device) >= count
        return k, v, mask.expand(k.shape[0], -1)

    def _with_masked_keys(self, count: int) -> Tensors:
        k, v, mask = self._with_padding(count)
        first, *of_keys = self._call(self.q, k, v, self.grad_out, mask)
        return [first, *(x[:, :, count:] for x in of_keys)]  # out; or dq, and dk and dv of the real keys

    def _refuses(self, n: int | None = None, **case: Any) -> bool:
        n, m = n or self.q.shape[2], n or self.case.n + max(PADDINGS)
        return attention.why_not(self.name, device=self.case.device, dtype=self.case.dtype, heads=self.case.heads,
                                 head_dim=self.case.head_dim, n=n, m=m, causal=self.function.causal,
                                 grad=self.phase == "backward", **case) is not None

    def _call(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad_out: torch.Tensor,
              key_mask: torch.Tensor | None = None) -> Tensors:
        """Gives the output, or the gradients of q, k and v."""
        if k.shape[2] not in self.modules:
            self.modules[k.shape[2]] = attention.create(
                self.name, heads=self.case.heads, head_dim=self.case.head_dim, seq_len=k.shape[2],
                causal=self.function.causal, device=self.case.device, dtype=self.case.dtype)
        module = self.modules[k.shape[2]]
        masked = {} if key_mask is None else {"key_mask_BM": key_mask}
        if self.phase == "forward":
            with torch.no_grad():
                return [module(q, k, v, **masked)]
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(module(*leaves, **masked), leaves, grad_out, materialize_grads=True)


def _let_late_work_end(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    time.sleep(LATE)


def _difference(one: Tensors, other: Tensors) -> float:
    """Gives the largest difference of two results relative to the largest value; infinite where one is no number."""
    worst = 0.0
    for x, y in zip(one, other, strict=True):
        if torch.equal(x, y):
            continue
        off = ((x.double() - y.double()).abs().max() / x.double().abs().max().clamp_min(1e-30)).item()
        worst = max(worst, off if off == off else float("inf"))
    return worst
