"""Faults for variants: in the inputs, the arguments of the kernel, the parameters, the operators, the gradients.

Each fault is a function that breaks a new module in place. It raises ValueError if the module has no such part.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention import masks
from attention.module import Attention

TILE = 16  # rows or keys
Fault = Callable[[Attention], None]

_aten = torch.ops.aten


# What is around a call: its inputs, its output, the module's own numbers.

def around(call: Callable[..., torch.Tensor]) -> Fault:
    """Puts `call(forward, q, k, v, **masked)` in the place of the module's forward."""
    def change(module: Attention) -> None:
        forward = module.forward
        module.forward = lambda *qkv, **masked: call(forward, *qkv, **masked)  # type: ignore[method-assign]

    return change


def on_inputs(alter: Callable[..., tuple[torch.Tensor, ...]]) -> Fault:
    """Gives the module `alter(q, k, v)` for its inputs."""
    return around(lambda forward, *qkv, **masked: forward(*alter(*qkv), **masked))


def on_output(alter: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """Makes `alter(out)` the output."""
    return around(lambda forward, *qkv, **masked: alter(forward(*qkv, **masked)))


def scaled(factor: float | None) -> Fault:
    """Multiplies the scale by `factor`; None makes it 1."""
    def change(module: Attention) -> None:
        module.scale = 1.0 if factor is None else module.scale * factor

    return change


def replaced(x: torch.Tensor, index: Any, value: Any, dim: int = 2) -> torch.Tensor:
    """Copies x, and writes `value` at `index` of a dimension."""
    x = x.clone()
    x.select(dim, index).copy_(torch.as_tensor(value, dtype=x.dtype, device=x.device))
    return x


def head_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return replaced(q, -1, 1.1 * q[:, -1], dim=1), k, v


def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return q, k.roll(1, 2), v.roll(1, 2)


def lost_value(key: int) -> Fault:
    return on_inputs(lambda q, k, v: (q, k, replaced(v, _at(key, v), 0.0)))


def interleaved(forward: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                **masked: Any) -> torch.Tensor:
    """Gives query head h the key head h mod G, not h // (H / G)."""
    order = torch.arange(q.shape[1], device=q.device).view(-1, k.shape[1]).T.flatten()
    return forward(q[:, order], k, v, **masked)[:, order.argsort()]


def late_rows(out: torch.Tensor) -> torch.Tensor:
    """Replaces each of the last quarter of the rows by the row before it."""
    start = out.shape[2] - max(1, out.shape[2] // 4)
    return torch.cat([out[:, :, :start], out[:, :, start - 1:-1] if start else out], 2)


def no_tail(out: torch.Tensor) -> torch.Tensor:
    """Leaves the rows beyond the last whole tile empty."""
    whole = out.shape[2] // TILE * TILE
    return torch.cat([out[:, :, :whole], torch.zeros_like(out[:, :, whole:])], 2)


def unseen(key: int) -> Fault:
    """Leaves one key out: by a key mask, or where the function takes none by `visible` of its backend."""
    def masking(forward: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        keep = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        keep[:, _at(key, k)] = False
        return forward(q, k, v, key_mask_BM=keep if key_mask_BM is None else keep & key_mask_BM)

    def hiding(attend: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               **told: Any) -> torch.Tensor:
        before, lost = told.pop("visible", None), _at(key, k)
        return attend(q, k, v, visible=lambda h, i, j: (j != lost) & (True if before is None else before(h, i, j)),
                      **told)

    def change(module: Attention) -> None:
        (around(masking) if module.variant.function.padding else attending(hiding))(module)

    return change


def _at(key: int, k: torch.Tensor) -> int:
    """Finds a key by number; -1 is the last, -2 the middle."""
    m = k.shape[2]
    return {-1: m - 1, -2: m // 2}.get(key, min(key, m - 1))


def flag(causal: bool) -> Fault:
    """Makes the module take itself for one that is `causal`, or not."""
    def change(module: Attention) -> None:
        if module.causal == causal or not (module.variant.function.causal if causal else module.variant.function.full):
            raise ValueError("it is so already, or can't be")
        module.causal = causal

    return change


# What a function tells the kernel.

def attending(call: Callable[..., torch.Tensor]) -> Fault:
    """Puts `call(attend, q, k, v, **told)` in the place of the kernel."""
    def change(module: Attention) -> None:
        attend = module._attend
        module._attend = lambda *qkv, **told: call(attend, *qkv, **told)

    return change


def without(word: str) -> Fault:
    """Leaves `word` out of what the kernel gets."""
    return attending(lambda attend, *qkv, **told: attend(*qkv, **{x: y for x, y in told.items() if x != word}))


def told(word: str, alter: Callable[..., Any]) -> Fault:
    """Gives the kernel `alter(value, q, k)` for `word`, where it gets that."""
    def call(attend: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
             **words: Any) -> torch.Tensor:
        if words.get(word) is not None:
            words[word] = alter(words[word], q, k)
        return attend(q, k, v, **words)

    return attending(call)


def edge(left: int = 0, right: int = 0) -> Fault:
    """Moves the edges of the band."""
    def alter(band: masks.Band, q: torch.Tensor, k: torch.Tensor) -> masks.Band:
        return masks.Band(None if band.left is None else band.left + left,
                          None if band.right is None else band.right + right)

    return told("band", alter)


def to_first_key(band: masks.Band, q: torch.Tensor, k: torch.Tensor) -> masks.Band:
    """Aligns queries to the first key, as PyTorch's is_causal has it."""
    shift = k.shape[2] - q.shape[2]
    return masks.Band(None if band.left is None else band.left + shift,
                      None if band.right is None else band.right - shift)


def next_key(visible: masks.Visible, q: torch.Tensor, k: torch.Tensor) -> masks.Visible:
    return lambda h, i, j: visible(h, i, (j + 1) % k.shape[2])


def next_head(bias: Callable, q: torch.Tensor, k: torch.Tensor) -> Callable:
    return lambda h, i, j: bias((h + 1) % q.shape[1], i, j)


# Parameters and options.

def having(alter: Callable[[torch.Tensor], torch.Tensor], *, learned: bool = True) -> Fault:
    """Makes the function work with `alter(parameter)` of each parameter that is `learned`, or that is drawn."""
    def change(module: Attention) -> None:
        names = {x for x, _ in (module.named_parameters() if learned else module.named_buffers())}

        class Altered(type(module)):  # type: ignore[misc]
            @property
            def params(self) -> dict[str, torch.Tensor]:
                return {x: alter(p) if x in names else p for x, p in super().params.items()}

        module.__class__ = Altered

    return change


def ignoring(module: Attention) -> None:
    """Keeps the learned parameters at their initial values for ever."""
    initial = {x: p.detach().clone() for x, p in module.params.items()}

    class Stuck(type(module)):  # type: ignore[misc]
        @property
        def params(self) -> dict[str, torch.Tensor]:
            return initial

    module.__class__ = Stuck


# Operators that compute something else.

class Altered(TorchDispatchMode):
    """Replaces the result of the `operators` by `alter(result, *args)`, while it is entered."""

    def __init__(self, operators: tuple[Any, ...], alter: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.operators, self.alter = operators, alter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.alter(result, *args) if func in self.operators else result


SOFTMAX, BACKWARD = (_aten._softmax.default,), (_aten._softmax_backward_data.default,)
PRODUCTS = (_aten.mm.default, _aten.bmm.default, _aten.mm.dtype, _aten.bmm.dtype)  # the last two on a GPU


def in_float8(weights: torch.Tensor, *args: Any) -> torch.Tensor:
    return weights.to(torch.float8_e4m3fn).to(weights.dtype)


def no_rescale(weights: torch.Tensor, scores: torch.Tensor, *args: Any) -> torch.Tensor:
    """Leaves the first half of the keys the weights that it had when it was the whole."""
    half = weights.shape[-1] // 2
    top = scores.amax(-1, keepdim=True) - scores[..., :half].amax(-1, keepdim=True) if half else 0
    factor = torch.as_tensor(top, device=weights.device).exp().nan_to_num(1.0, posinf=1.0)
    return torch.cat([weights[..., :half] * factor, weights[..., half:]], -1)


def summed_narrowly(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Rounds the sums of a product to `dtype` after every two terms."""
    def alter(result: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any) -> torch.Tensor:
        total = torch.zeros_like(result)
        for x, y in zip(a.split(2, -1), b.split(2, -2), strict=True):
            total = (total + x.double() @ y.double()).to(dtype).to(result.dtype)
        return total

    return alter


def in_bfloat16(result: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any) -> torch.Tensor:
    """Rounds the operands of a float32 product."""
    return result if a.dtype != torch.float32 else (a.bfloat16().double() @ b.bfloat16().double()).float()


def one_product(gradient: torch.Tensor, grad: torch.Tensor, weights: torch.Tensor, *args: Any) -> torch.Tensor:
    """Gives P dP without taking off the sum of it."""
    return weights * grad


# Gradients.

class Gradient(torch.autograd.Function):
    """Is the identity, but alters its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alter: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        ctx.alter = alter
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.alter(grad), None


def gradient(of: str, alter: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return on_inputs(lambda *qkv: tuple(Gradient.apply(x, alter) if name == of else x
                                        for name, x in zip("qkv", qkv, strict=True)))


def doubled_tail(x: torch.Tensor) -> torch.Tensor:
    start = x.shape[2] - max(1, x.shape[2] // 8)
    return torch.cat([x[:, :, :start], 2 * x[:, :, start:]], 2)


def first_of_group(x: torch.Tensor) -> torch.Tensor:
    """Takes the last head out."""
    return replaced(x, -1, 0.0, dim=1)


class Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return k.view_as(k), v.view_as(v)

    @staticmethod
    def backward(ctx: Any, of_k: torch.Tensor, of_v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return of_v, of_k


def exchanged(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return Exchange.apply(k, v)
