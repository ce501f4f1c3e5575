"""Attentions that cheat: each is right where a harness that looks at them once looks, and not where it counts.

Each is made like a backend's `attend()`: called without arguments it gives what takes the place of eager's kernel.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from attention.backends.eager import attend as honest

Attend = Callable[..., torch.Tensor]
CALLS = 12  # after which a lazy one has seen enough: more than check, count and weigh it

CHEATS: dict[str, tuple[Callable[[], Attend], str]] = {}  # name -> what makes it, and words that must tell it
GPU_CHEATS: dict[str, tuple[Callable[[], Attend], str]] = {}
GRADIENT_CHEATS: dict[str, tuple[Callable[[], Attend], str]] = {}

OTHER_RESULT = ("gave another result when it was timed|as it was before, when its inputs were new|"
                "gave the same result when its inputs were new")
SWITCHED = "of the whole process"
WRONG = "numerically wrong"


def cheat(words: str, where: dict[str, tuple[Callable[[], Attend], str]] = CHEATS) -> Callable[..., Any]:
    """Puts a maker of a cheat into the catalogue."""
    def add(make: Callable[[], Attend]) -> Callable[[], Attend]:
        where[make.__name__.replace("_", " ")] = make, words
        return make

    return add


def after(calls: int, late: Attend) -> Attend:
    """Is honest for some calls, then something else."""
    made = 0

    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        nonlocal made
        made += 1
        return honest(*qkv, **told) if made <= calls else late(*qkv, **told)

    return attend


def remembering(key: Callable[..., Any], clone: bool = False) -> Attend:
    """Computes once for each key, and always where a profiler looks."""
    results: dict[Any, torch.Tensor] = {}

    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if torch.autograd._profiler_enabled():
            return honest(*qkv, **told)
        known = key(*qkv)
        if known not in results:
            results[known] = honest(*qkv, **told)
        return results[known].clone() if clone else results[known]

    return attend


def addresses(*qkv: torch.Tensor) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in qkv)


@cheat(OTHER_RESULT)
def remembered_by_address() -> Attend:
    return remembering(addresses)


@cheat(OTHER_RESULT)
def remembered_by_address_and_copied() -> Attend:
    return remembering(addresses, clone=True)


@cheat(OTHER_RESULT)
def remembered_by_shape() -> Attend:
    return remembering(lambda *qkv: tuple(x.shape for x in qkv))


@cheat("remembers results")
def remembered_by_value() -> Attend:
    return remembering(lambda *qkv: tuple(x.sum().item() for x in qkv))


@cheat("remembers results")
def remembered_by_a_few_values() -> Attend:
    return remembering(lambda *qkv: tuple(x.flatten()[:3].sum().item() for x in qkv), clone=True)


def last_result(calls: int) -> Attend:
    kept: list[torch.Tensor] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if not kept:
            kept.append(honest(*qkv, **told))
        return kept[0]

    return after(calls, late)


@cheat(OTHER_RESULT)
def right_for_the_first_8_calls() -> Attend:
    return last_result(8)


@cheat(OTHER_RESULT)
def right_for_the_first_12_calls() -> Attend:
    return last_result(CALLS)


@cheat(OTHER_RESULT)
def nothing_after_12_calls() -> Attend:
    return after(CALLS, lambda q, k, v, **told: torch.empty_like(q))


@cheat(OTHER_RESULT)
def zeros_after_12_calls() -> Attend:
    return after(CALLS, lambda q, k, v, **told: torch.zeros_like(q))


@cheat("remembers results|" + OTHER_RESULT)
def every_other_call_after_12() -> Attend:
    kept: list[torch.Tensor] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if kept:
            return kept.pop()
        kept.append(honest(*qkv, **told))
        return kept[0]

    return after(CALLS, late)


class Lazy(torch.Tensor):
    """Computes when an operator reads it."""

    compute: Callable[[], torch.Tensor]

    @staticmethod
    def of(like: torch.Tensor, compute: Callable[[], torch.Tensor]) -> Lazy:
        made = torch.empty_like(like).as_subclass(Lazy)
        made.compute = compute
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(x: Any) -> Any:
            return x.compute() if isinstance(x, Lazy) and hasattr(x, "compute") else x

        if getattr(func, "__name__", "") in ("__get__", "__set__", "data_ptr", "as_subclass"):
            return super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(plain(x) for x in args), **(kwargs or {}))


@cheat("may compute when it is read")
def lazily_right() -> Attend:
    return after(CALLS, lambda q, k, v, **told: Lazy.of(q, lambda: honest(q, k, v, **told)))


def in_a_thread(part: float) -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out, first = torch.empty_like(q), int(q.shape[1] * part)
        q, k, v = q.clone(), k.clone(), v.clone()
        if first:
            out[:, :first] = honest(q, k, v, **told)[:, :first]

        def work() -> None:
            with torch.no_grad():
                out[:, first:] = honest(q, k, v, **told)[:, first:]

        threading.Timer(0.003, work).start()
        return out

    return after(CALLS, late)


@cheat("went on to change its result")
def a_host_thread() -> Attend:
    return in_a_thread(0)


@cheat("went on to change its result")
def a_host_thread_for_half_of_the_heads() -> Attend:
    return in_a_thread(0.5)


@cheat(OTHER_RESULT)
def finished_by_the_next_call() -> Attend:
    left: list[Callable[[], Any]] = []

    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if left:
            left.pop()()
        out = torch.empty_like(q)
        q, k, v = q.clone(), k.clone(), v.clone()
        left.append(lambda: out.copy_(honest(q, k, v, **told)))
        return out

    return after(CALLS, late)


def stale(rows: Callable[[int], slice]) -> Attend:
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out = honest(q, k, v, **told)
        key = addresses(q, k, v)
        if key in kept:
            out[:, :, rows(q.shape[2])] = kept[key][:, :, rows(q.shape[2])]
        kept.setdefault(key, out.clone())
        return out

    return attend


@cheat(OTHER_RESULT)
def half_of_the_rows_stale() -> Attend:
    return stale(lambda n: slice(n // 2, None))


@cheat(OTHER_RESULT)
def every_other_row_stale() -> Attend:
    return stale(lambda n: slice(1, None, 2))


@cheat(OTHER_RESULT)
def half_of_the_rows_and_zeros_where_the_poison_was() -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out, half = torch.zeros_like(q), q.shape[1] // 2
        out[:, :half] = honest(q, k, v, **told)[:, :half]
        return out

    return after(CALLS, late)


@cheat("changed its inputs")
def inputs_edited_in_place() -> Attend:
    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        out = honest(q, k, v, **told)
        v.mul_(0.5)
        return out

    return after(CALLS, late)


@cheat("changed its inputs")
def a_view_of_an_input() -> Attend:
    return after(CALLS, lambda q, k, v, **told: q.copy_(honest(q, k, v, **told)).view(q.shape))


@cheat(OTHER_RESULT)
def an_input_for_a_result() -> Attend:
    return after(CALLS, lambda q, k, v, **told: v.expand_as(q))


@cheat(WRONG)
def a_smaller_batch() -> Attend:
    return lambda q, k, v, **told: honest(q[:1], k[:1], v[:1], **told).expand_as(q).clone()


@cheat(OTHER_RESULT)
def a_smaller_batch_after_12_calls() -> Attend:
    return after(CALLS, a_smaller_batch())


@cheat(WRONG)
def lower_precision() -> Attend:
    return lambda q, k, v, **told: honest(q.bfloat16(), k.bfloat16(), v.bfloat16(), **told).to(q.dtype)


@cheat(OTHER_RESULT)
def lower_precision_after_12_calls() -> Attend:
    return after(CALLS, lower_precision())


def caching(part: int) -> Attend:
    """Keeps what it made of k, or of v, by the address of it: here a copy, elsewhere a projection."""
    made: dict[int, torch.Tensor] = {}

    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        x = qkv[part]
        kept = made.setdefault(x.data_ptr(), x.clone())
        q, k, v = (kept if at == part else one for at, one in enumerate(qkv))
        return honest(q, k, v, **told)

    return attend


@cheat(OTHER_RESULT)
def keys_kept_by_address() -> Attend:
    return caching(1)


@cheat(OTHER_RESULT)
def values_kept_by_address() -> Attend:
    return caching(2)


@cheat(OTHER_RESULT)
def probabilities_kept_by_address() -> Attend:
    made: dict[tuple[int, ...], torch.Tensor] = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        key = addresses(q, k)
        if key not in made:
            eye = torch.eye(k.shape[2], dtype=q.dtype).expand(*k.shape[:2], -1, -1)
            made[key] = honest(q, k, eye, **told)
        return made[key] @ v

    return attend


@cheat("took .* but its FLOPs|remembers results|" + OTHER_RESULT)
def nothing_where_no_profiler_looks_after_12_calls() -> Attend:
    empty: list[torch.Tensor] = []

    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if torch.autograd._profiler_enabled():
            return honest(q, k, v, **told)
        if not empty:
            empty.append(torch.zeros_like(q))
        return empty[0]

    return after(CALLS, late)


def switching(switch: Callable[[], Any]) -> Attend:
    def attend(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        switch()
        return honest(*qkv, **told)

    return attend


@cheat(SWITCHED)
def the_number_of_threads() -> Attend:
    return switching(lambda: torch.set_num_threads(3))


@cheat(SWITCHED)
def fp32_products_in_bf16() -> Attend:
    backends: Any = torch.backends
    return switching(lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"))


@cheat(SWITCHED)
def fp32_products_in_tf32() -> Attend:
    return switching(lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"))


@cheat(SWITCHED)
def small_numbers_to_zero() -> Attend:
    return switching(lambda: torch.set_flush_denormal(True))


@cheat(SWITCHED)
def the_default_dtype() -> Attend:
    return switching(lambda: torch.set_default_dtype(torch.float16))


@cheat(SWITCHED)
def deterministic_algorithms() -> Attend:
    return switching(lambda: torch.use_deterministic_algorithms(True))


CLOCK = time.perf_counter


@cheat(SWITCHED)
def a_slow_clock() -> Attend:
    return switching(lambda: setattr(time, "perf_counter", lambda: CLOCK() / 10))


class _Stale(torch.autograd.Function):
    """Passes on the gradients of the first backward pass."""

    @staticmethod
    def forward(ctx: Any, kept: list[Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                told: dict[str, Any]) -> torch.Tensor:
        ctx.kept, ctx.told = kept, told
        ctx.save_for_backward(q, k, v)
        return honest(q, k, v, **told)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        shape = grads[0].shape
        found = next((x for size, x in ctx.kept if size == shape and len(ctx.kept) > 3), None)
        if found is None or torch.autograd._profiler_enabled():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            with torch.enable_grad():
                found = torch.autograd.grad(honest(*leaves, **ctx.told), leaves, grads[0])
            ctx.kept.append((shape, found))
        return None, *found, None


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def gradients_remembered() -> Attend:
    kept: list[Any] = []
    return lambda q, k, v, **told: _Stale.apply(kept, q, k, v, told)


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def no_gradient_to_k_after_12_calls() -> Attend:
    return after(CALLS, lambda q, k, v, **told: honest(q, k.detach(), v, **told))


@cheat(OTHER_RESULT, GRADIENT_CHEATS)
def a_gradient_doubled_after_12_calls() -> Attend:
    return after(CALLS, lambda q, k, v, **told: honest(q, k, v + (v - v.detach()), **told))


def captured() -> bool:
    return torch.cuda.is_current_stream_capturing()


@cheat(OTHER_RESULT, GPU_CHEATS)
def nothing_while_captured() -> Attend:
    kept: list[torch.Tensor] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if captured() and kept:
            return kept[0]
        out = honest(q, k, v, **told)
        kept[:] = [out]
        return out

    return attend


@cheat(WRONG, GPU_CHEATS)
def right_only_when_captured() -> Attend:
    return lambda q, k, v, **told: honest(q, k, v, **told) if captured() else torch.zeros_like(q)


@cheat(OTHER_RESULT, GPU_CHEATS)
def half_of_the_heads_while_captured() -> Attend:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **told: Any) -> torch.Tensor:
        if not captured():
            return honest(q, k, v, **told)
        out, half = torch.empty_like(q), q.shape[1] // 2
        out[:, :half] = honest(q[:, :half], k[:, :half], v[:, :half], **told)
        return out

    return attend


def on_another_stream(wait_before: bool, wait_after: bool) -> Attend:
    """Is honest until it has been checked; then it leaves out one of the waits."""
    streams: list[torch.cuda.Stream] = []

    def late(*qkv: torch.Tensor, **told: Any) -> torch.Tensor:
        if not streams:
            streams.append(torch.cuda.Stream())
        mine = torch.cuda.current_stream()
        if wait_before:
            streams[0].wait_stream(mine)
        with torch.cuda.stream(streams[0]):
            out = honest(*qkv, **told)
        if wait_after:
            mine.wait_stream(streams[0])
        return out

    return after(CALLS, late)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_without_waiting() -> Attend:
    return on_another_stream(False, False)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_that_does_not_wait_for_inputs() -> Attend:
    return on_another_stream(False, True)


@cheat(OTHER_RESULT + "|went on to change|took ", GPU_CHEATS)
def another_stream_that_nobody_waits_for() -> Attend:
    return on_another_stream(True, False)


@cheat("", GPU_CHEATS)
def another_current_stream() -> Attend:
    return after(CALLS, switching(lambda: torch.cuda.set_stream(torch.cuda.Stream())))
